"""What a terminal is shown: sizes and speeds in one kind of units, lines that break between words."""

from __future__ import annotations

import io
import sys

import pytest

from glm_crush.cli.console import print_error, transfer_bar


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def terminal_of(columns: int, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    for name, value in {"COLUMNS": str(columns), "LINES": "20", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def test_an_error_breaks_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(40, monkeypatch)
    print_error("no model 'nothing' is stored; glm list shows the stored models")
    assert terminal.getvalue().endswith(" no model 'nothing' is stored; glm\nlist shows the stored models\n")


def test_an_error_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("word " * 100)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_bar_counts_its_speed_in_the_units_of_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(100, monkeypatch)
    with transfer_bar("pulling") as progress:
        for done in range(0, 101, 25):
            progress("file", done * 2**20, 100 * 2**20)
    assert "100.0/100.0 MiB" in terminal.getvalue()
    assert "iB/s" in terminal.getvalue()
    assert " MB/s" not in terminal.getvalue()
