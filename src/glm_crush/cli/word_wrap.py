"""Breaks lines between words while text arrives in pieces, without holding any of it back.

A word that turns out not to fit is erased and written again on the next line.
"""

from __future__ import annotations

from typing import TextIO

__all__ = ["WordWrap"]


class WordWrap:
    """Writes to a terminal of `width` columns."""

    def __init__(self, out: TextIO, width: int) -> None:
        self._out = out
        self._width = width
        self._column = 0
        self._word = ""  # of the current line's last word, what has been written

    def write(self, piece: str) -> None:
        """Write a piece; the position is remembered for the next."""
        for character in piece:
            self._put(character)

    def _put(self, character: str) -> None:
        from rich.cells import cell_len

        cells = cell_len(character)
        full = self._column + cells > self._width
        if character == "\n" or (full and character == " "):  # a blank at a line's end is not carried over
            self._out.write("\n")
            self._column, self._word = 0, ""
            return
        if full:
            self._break()
        self._out.write(character)
        self._column += cells
        # A wide character is a word by itself: Chinese breaks anywhere.
        self._word = "" if character == " " or cells > 1 else self._word + character

    def _break(self) -> None:
        """Start a new line with the word that does not fit; one as long as a line is cut."""
        from rich.cells import cell_len

        word, cells = self._word, cell_len(self._word)
        if cells >= self._column:
            word, cells = "", 0
        if cells:
            self._out.write(f"\x1b[{cells}D\x1b[K")
        self._out.write(f"\n{word}")
        self._column = cells
