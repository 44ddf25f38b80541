"""Breaking lines between words while text arrives in pieces."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.cli.word_wrap import WordWrap


def screen(pieces: list[str], width: int) -> list[str]:
    """What a terminal shows: an erase sequence takes back the last characters of its line."""
    out = io.StringIO()
    wrap = WordWrap(out, width)
    for piece in pieces:
        wrap.write(piece)
    text = out.getvalue()
    while match := re.search(r"\x1b\[(\d+)D\x1b\[K", text):
        text = text[: match.start() - int(match[1])] + text[match.end() :]
    return text.split("\n")


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["one two three"], ["one two ", "three"]),
        (["one", " tw", "o th", "ree"], ["one two ", "three"]),
        (["12345678 90"], ["12345678", "90"]),
        (["123456789"], ["12345678", "9"]),
        (["a\nb"], ["a", "b"]),
        (["你好你好你好"], ["你好你好", "你好"]),
    ],
)
def test_a_word_that_does_not_fit_moves_to_the_next_line(pieces: list[str], lines: list[str]) -> None:
    assert screen(pieces, 8) == lines


@given(st.lists(st.text(alphabet="ab \n", max_size=12), max_size=12), st.integers(3, 12))
def test_no_line_is_too_long_and_no_letter_is_lost(pieces: list[str], width: int) -> None:
    lines = screen(pieces, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join("".join(pieces).split())


@given(st.text(alphabet="ab \n", max_size=40), st.integers(3, 12))
def test_how_the_text_is_cut_into_pieces_makes_no_difference(text: str, width: int) -> None:
    assert screen([text], width) == screen(list(text), width)
