"""How much of a prompt a step may compute while others are in the middle of their replies.

A step takes as long as its tokens, and everybody who decodes waits for its end: a chunk of a long prompt is a gap in
every stream. The cost of a prompt token is measured, not known: it depends on model, machine, depth and load. Replies
do not depend on how prompts are cut, so the cut may follow the clock. Above: the engine.
"""

from __future__ import annotations

from glm_crush.engine.scheduled_batch import ScheduledBatch

__all__ = ["StepBudget"]

# A step that goes over is a gap that somebody sees; one that stays under is only a little less efficient.
_SAFETY = 0.8
_SMALLEST_CHUNK = 16  # less would hardly move a prompt on, however slow the machine is
_FIRST_CHUNK = 64  # before anything has been measured
_MOST_GROWTH = 2  # from step to step: the first chunks of a prompt are the cheapest


class StepBudget:
    """Learns what steps cost, and says how many prompt tokens fit into one beside those that decode.

    Args:
        max_seconds: the longest that such a step should take.
        max_tokens: the most that any step computes.
    """

    def __init__(self, *, max_seconds: float, max_tokens: int) -> None:
        self._max_seconds = max_seconds
        self._max_tokens = max_tokens
        self._decode_seconds = 0.0  # of a step that only decodes, once for each request
        self._token_seconds: float | None = None  # of one prompt token more
        self._latest = _FIRST_CHUNK // _MOST_GROWTH

    @property
    def max_prompt_tokens(self) -> int:
        """For a step in which others decode."""
        if self._token_seconds is None:
            return min(_FIRST_CHUNK, self._max_tokens)
        left = self._max_seconds * _SAFETY - self._decode_seconds
        fitting = int(left / self._token_seconds) if self._token_seconds > 0 else self._max_tokens
        return min(max(_SMALLEST_CHUNK, min(fitting, self._latest * _MOST_GROWTH)), self._max_tokens)

    def record(self, batch: ScheduledBatch, seconds: float) -> None:
        """Learn from a step."""
        num_prompt_tokens = sum(p.num_tokens for p in batch.requests if p.num_tokens > 1 and not p.drafts)
        if num_prompt_tokens == 0:
            if any(part.drafts for part in batch.requests):
                return  # there are none beside prompts
            self._decode_seconds = _towards(self._decode_seconds, seconds / batch.num_decode_steps)
            return
        decodes = any(p.num_tokens == 1 or p.drafts for p in batch.requests)
        latest = max(0.0, seconds - self._decode_seconds * decodes) / num_prompt_tokens
        if num_prompt_tokens >= _SMALLEST_CHUNK:  # the rest of a prompt says little about a whole chunk
            self._latest = num_prompt_tokens
            if self._token_seconds is None or latest > self._token_seconds:
                self._token_seconds = latest  # at once: the next step would be too long as well
            else:
                self._token_seconds = _towards(self._token_seconds, latest)


def _towards(average: float, latest: float) -> float:
    return latest if average == 0.0 else 0.75 * average + 0.25 * latest
