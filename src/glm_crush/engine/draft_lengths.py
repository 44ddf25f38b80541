"""How many tokens to guess for each request: as many as make the most tokens per second.

Above: `speculation`. This module knows neither requests nor drafters.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

__all__ = ["StepCosts", "choose_lengths"]

# Until measured: a step takes as long as its weights take to be read plus a sixth of that for each token in it.
_FIRST_READ_TOKENS = 6.0
_WEIGHT = 0.2  # of the latest measurement


def choose_lengths(rates: Sequence[float], limits: Sequence[int], *, num_seqs: int, share: float) -> list[int]:
    """Draft lengths that maximise the expected tokens per second of a step.

    With acceptance rate `a`, guess j of a request adds `a**j` tokens and `share` of a plain step's time. The most
    valuable guess is taken first, as long as it adds more than the average that the step has without it.

    Args:
        rates: acceptance rate of each candidate.
        limits: longest draft of each.
        num_seqs: requests in the step, one certain token for each.
        share: time of one guess, in plain steps.
    """
    lengths = [0] * len(rates)
    gains = [(-rate, place) for place, rate in enumerate(rates) if limits[place] > 0]
    heapify(gains)
    tokens, time = float(num_seqs), 1.0
    while gains:
        gain, place = heappop(gains)
        if -gain * time <= tokens * share:
            break
        tokens -= gain
        time += share
        lengths[place] += 1
        if lengths[place] < limits[place]:
            heappush(gains, (gain * rates[place], place))
    return lengths


class StepCosts:
    """What steps that only decode take, measured: plain ones by their number of requests, and each guess on top."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        self._per_draft: float | None = None

    def record(self, num_seqs: int, num_drafts: int, seconds: float) -> None:
        """Learn from one step."""
        plain = self._plain.get(num_seqs)
        if num_drafts == 0:
            self._plain[num_seqs] = seconds if plain is None else plain + _WEIGHT * (seconds - plain)
        elif plain is not None:
            # An interruption must not pass for the price of a guess, nor make it free.
            latest = min(max((seconds - plain) / num_drafts, 0.01 * plain), plain)
            known = plain / (num_seqs + _FIRST_READ_TOKENS) if self._per_draft is None else self._per_draft
            # A single guess is lost in the noise of a step; many tell more.
            self._per_draft = known + _WEIGHT * min(1.0, num_drafts / 4) * (latest - known)

    def share_per_draft(self, num_seqs: int) -> float:
        """Time of one guess in a step of so many requests, in plain steps."""
        plain = self._plain.get(num_seqs)
        if self._per_draft is None or not plain:
            return 1.0 / (num_seqs + _FIRST_READ_TOKENS)
        return self._per_draft / plain
