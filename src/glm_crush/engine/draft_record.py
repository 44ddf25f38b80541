"""How often the drafts of one reply came true, and when to try again after they did not.

Above: `speculation`. This module knows neither requests nor clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DraftRecord"]

# The latest guess counts this much: a reply changes its nature within a few lines.
_WEIGHT = 0.25
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 256
_HOPEFUL_TOKENS = 16
_HOPEFUL_LENGTH = 3


class DraftRecord:
    """What one reply's drafts were worth.

    Attributes:
        rates: for each certainty, the probability that a guess is right if the ones before it are.
    """

    __slots__ = ("_last_copied", "_last_try", "_pause", "rates")

    def __init__(self, first_rates: Sequence[float]) -> None:
        self.rates = list(first_rates)
        self._pause = _FIRST_PAUSE
        self._last_try = 0
        self._last_copied = -_HOPEFUL_TOKENS - 1

    def note(self, certainty: int, num_accepted: int, num_drafts: int, position: int) -> float:
        """Take in a draft's outcome at `position` (a count of the reply's tokens); returns the share that was right.

        What comes after the first wrong guess was guessed from a wrong beginning and says nothing.
        """
        rate = 1.0 - (1.0 - self.rates[certainty]) * (1.0 - _WEIGHT) ** num_accepted
        self.rates[certainty] = rate if num_accepted == num_drafts else rate * (1.0 - _WEIGHT)
        if num_accepted >= _HOPEFUL_LENGTH:
            self._last_copied = position
        if num_accepted:
            self._pause = _FIRST_PAUSE
        elif self.may_probe(position):  # this was such a try
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._last_try = position
        return num_accepted / min(num_drafts, num_accepted + 1)

    def may_probe(self, position: int) -> bool:
        """Whether it is time for a short draft although it is not expected to pay."""
        return position - self._last_try >= self._pause

    def is_hopeful(self, position: int) -> bool:
        """Whether several guesses in a row were right only a few tokens ago."""
        return position - self._last_copied <= _HOPEFUL_TOKENS
