"""The documentation and the program say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from glm_crush.cli.main import app

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "cli.md").read_text()
VERBS = sorted(name for name, command in typer.main.get_command(app).commands.items() if not command.hidden)  # type: ignore[attr-defined]


@pytest.mark.requirement("O5")
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented(verb: str) -> None:
    assert f"<!-- generated: glm {verb} --help -->" in PAGE
