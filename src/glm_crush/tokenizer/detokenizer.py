"""Token ids to text while they arrive.

Below it: `Tokenizer.text_bytes`. Above it: the engine's streams. Each token costs its own bytes once, whatever came
before; text is held back only while a character is incomplete, and all pieces together are exactly `Tokenizer.decode`
of all ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

__all__ = ["IncrementalDetokenizer", "PieceSource"]


class PieceSource(Protocol):
    """What the detokeniser needs of a tokenizer."""

    strip_spaces: int

    def text_bytes(self, token_id: int, *, first: bool) -> bytes | None:
        """The bytes this token adds to the text, or None for an id without a token."""

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this id out."""


class IncrementalDetokenizer:
    """The text of one growing list of token ids.

    `add` returns only whole characters. `finish` returns what is still held back, as U+FFFD, once no more ids will
    come.
    """

    def __init__(
        self, tokenizer: PieceSource, *, skip_special_tokens: bool = True, continues: Iterable[int] = ()
    ) -> None:
        """Args:
        tokenizer: the bytes of each token.
        skip_special_tokens: leave special tokens out of the text.
        continues: ids whose text this one goes on from, a prompt's. Their own text is not returned, but a space
            that a tokenizer drops at the start of a text is then kept, because this is no start.
        """
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = True
        self._strip_spaces = tokenizer.strip_spaces
        for token_id in continues:
            self.add(token_id)
            if not self._first and not self._strip_spaces:  # nothing that comes later matters
                break
        self._utf8.reset()

    def add(self, token_id: int) -> str:
        """Take one token; return the text that is now complete (may be empty)."""
        if self._skip_special_tokens and self._tokenizer.is_special(token_id):
            return ""
        data = self._tokenizer.text_bytes(token_id, first=self._first)
        if data is None:
            return ""
        self._first = False
        return self._strip(self._utf8.decode(data))

    def add_all(self, token_ids: Iterable[int]) -> str:
        """Take several tokens; return the text that is now complete."""
        return "".join([self.add(token_id) for token_id in token_ids])

    def finish(self) -> str:
        """Return the held-back rest; the detokeniser is not used afterwards."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while self._strip_spaces and text:
            if text[0] != " ":
                self._strip_spaces = 0
                break
            text = text[1:]
            self._strip_spaces -= 1
        return text
