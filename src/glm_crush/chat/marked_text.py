"""A reply's deltas as text pieces and markers, each marker known by its token id.

Above: the reply parser. Below: the detokeniser. The engine decides which characters belong to the reply (a stop
string or an end-of-text token does not), the token ids say which of them are markers: this module decodes the ids
again and releases as much as the engine has released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from glm_crush.chat.reply_markers import Marker, ReplyMarkers

__all__ = ["MarkedText", "Piece"]


class Detokenizer(Protocol):
    """Token ids to text as they come; must be of the kind that the engine uses for the same reply."""

    def add(self, token_id: int) -> str:
        """The text that this token completes."""

    def finish(self) -> str:
        """What is left when no more tokens come."""


Piece = tuple[Marker | None, str]
"""A marker with its text, or None with ordinary text."""


class MarkedText:
    """Cuts one reply into pieces.

    Args:
        markers: of the model.
        make_detokenizer: gives a fresh one, as the engine has for this reply.
    """

    def __init__(self, markers: ReplyMarkers, make_detokenizer: Callable[[], Detokenizer]) -> None:
        self._names = markers.names
        self._detokenizer = make_detokenizer()
        self._waiting: deque[Piece] = deque()
        self._num_released = 0  # characters the engine has released and we have not yet

    def push(self, token_ids: Sequence[int], text: str, *, last: bool) -> Iterator[Piece]:
        """The pieces that a delta of these tokens and this text releases.

        When it is the last, what the engine has not released by now is not part of the reply.
        """
        for token_id in token_ids:
            self._append(self._names.get(token_id), self._detokenizer.add(token_id))
        if last:
            self._append(None, self._detokenizer.finish())
        self._num_released += len(text)
        while self._waiting and (self._num_released or not self._waiting[0][1]):
            marker, waiting = self._waiting[0]
            if marker is not None and len(waiting) > self._num_released:
                if not last:
                    return
                marker = None  # a stop string cut it: what is left is no marker
            piece = waiting[: self._num_released]
            self._num_released -= len(piece)
            if len(piece) == len(waiting):
                self._waiting.popleft()
            else:
                self._waiting[0] = (None, waiting[len(piece) :])
            yield marker, piece

    def _append(self, marker: Marker | None, text: str) -> None:
        """A marker may come with characters that were incomplete before it: those are text.

        A marker that the detokeniser leaves out as a special token has no characters, and is one all the same.
        """
        before = text if marker is None else text.removesuffix(f"<{marker}>")
        if before:
            self._waiting.append((None, before))
        if marker is not None:
            self._waiting.append((marker, text[len(before) :]))
