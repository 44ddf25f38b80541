"""Guesses from the text itself: where its last tokens stood before, what followed then may follow again.

Pays for replies that repeat: edits, quotations, code, extraction, tables. Costs no computing (Saxena 2023, "Prompt
lookup decoding"; the index is that of LZ77 compressors). Above: `speculation`. Below: the request's tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from glm_crush.engine.request import Request
from glm_crush.engine.speculation import Drafter

__all__ = ["PromptLookup", "RepeatIndex"]

_MAX_COMPARED = 8  # places where the last two tokens stood before, the latest first
_MAX_LENGTH = 32  # longer matches are not told apart
# The shortest match of each certainty, and how often a guess was right with it in prose and code.
_LENGTHS = (2, 3, 5, 10)
_FIRST_RATES = (0.25, 0.45, 0.7, 0.9)


class RepeatIndex:
    """Where every pair of neighbouring tokens stands in a growing text; an append costs the same however long it is.

    Attributes:
        source: position of the token that followed the longest repeat of the text's end; 0 = there is none.
        length: of that repeat, at most 32; at least 2 where there is one.
    """

    __slots__ = ("_latest", "_num_indexed", "_previous", "length", "source")

    def __init__(self) -> None:
        self.source = 0
        self.length = 0
        self._num_indexed = 0  # tokens of which all pairs but the last are known
        self._latest: dict[int, int] = {}  # pair -> position after its latest place
        self._previous = array("i")  # position after a pair -> position after its place before that, 0 = none

    def update(self, token_ids: array[int]) -> None:
        """Take in the tokens that the text has gained, and find the longest repeat of its end."""
        for position in range(self._num_indexed, len(token_ids)):
            if self.source and token_ids[self.source] == token_ids[position]:
                self.source += 1  # the repeat goes on; no other can have become longer
                self.length = min(self.length + 1, _MAX_LENGTH)
            else:
                self.source = 0
            # The pair before: that of the text's end must not find itself.
            self._add(token_ids, position)
        self._num_indexed = len(token_ids)
        if not self.source and len(token_ids) > 2:
            self._search(token_ids)

    def _add(self, token_ids: array[int], position: int) -> None:
        """Enter the pair that ends right before `position`."""
        previous = 0
        if position > 1:
            pair = token_ids[position - 2] << 32 | token_ids[position - 1]
            previous = self._latest.get(pair, 0)
            self._latest[pair] = position
        self._previous.append(previous)

    def _search(self, token_ids: array[int]) -> None:
        place = self._latest.get(token_ids[-2] << 32 | token_ids[-1], 0)
        self.length = 0
        for _ in range(_MAX_COMPARED):
            if not place:
                return
            length = _common_end(token_ids, place)
            if length > self.length:
                self.source, self.length = place, length
            place = self._previous[place]


def _common_end(token_ids: array[int], place: int) -> int:
    """How many tokens before `place` equal those at the end."""
    end = len(token_ids)
    limit = min(place, _MAX_LENGTH)
    length = 2
    while length < limit and token_ids[place - 1 - length] == token_ids[end - 1 - length]:
        length += 1
    return length


class PromptLookup(Drafter):
    """A `Drafter` that copies what followed the longest repeat of the end of prompt and reply."""

    first_rates: Sequence[float] = _FIRST_RATES

    def __init__(self) -> None:
        self._indexes: dict[Request, RepeatIndex] = {}

    def certainty(self, request: Request) -> int | None:
        """The longer the repeat, the more certain is its continuation."""
        index = self._indexes.get(request)
        if index is None:
            index = self._indexes[request] = RepeatIndex()
        index.update(request.token_ids)
        return sum(index.length >= length for length in _LENGTHS) - 1 if index.source else None

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        """What followed; a repeat that reaches the end of the text goes round."""
        return {
            request: _continue(request.token_ids, self._indexes[request].source, length)
            for request, length in lengths.items()
        }

    def forget(self, request: Request) -> None:
        self._indexes.pop(request, None)


def _continue(token_ids: array[int], source: int, length: int) -> list[int]:
    draft = token_ids[source : source + length].tolist()
    period = len(token_ids) - source
    while len(draft) < length:
        draft.append(draft[len(draft) - period])
    return draft
