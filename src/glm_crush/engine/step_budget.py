"""How much of a prompt a step may compute while others are in the middle of their replies.

A step takes as long as its tokens, and everybody who decodes waits for its end: a chunk of a long prompt is a gap in
every stream. The cost of a prompt token is measured, not known: it depends on model, machine, depth and load. Replies
do not depend on how prompts are cut, so the cut may follow the clock. Above: the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from glm_crush.engine.scheduled_batch import ScheduledBatch
from glm_crush.engine.scheduler import Scheduler

__all__ = ["StepBudget"]

# A step that goes over is a gap that somebody sees; one that stays under is only a little less efficient.
_SAFETY = 0.55
_SMALLEST_CHUNK = 16  # less would hardly move a prompt on, however slow the machine is
_FIRST_CHUNK = 64  # before anything has been measured
_MOST_GROWTH = 2  # from step to step: the first chunks of a prompt are the cheapest
# What a token costs is measured by depth: below 512 tokens of context, below 1024, 2048, ...
_FIRST_DEPTH = 512
# Until two depths have been measured, a token is taken to cost as much more at a third as if attention to so many
# tokens cost what all the rest does. There are few models of which that is true.
_EVEN_DEPTH = 1024
_WAITING_LOOKED_AT = 4


@dataclass(slots=True)
class _Cost:
    """Seconds of a prompt token, where so many tokens stand before it."""

    depth: int
    seconds: float

    def at(self, depth: int, lesser: _Cost | None) -> float:
        """At a greater depth, on the line through what was measured at a lesser one."""
        if lesser is None:
            slope = self.seconds / (self.depth + _EVEN_DEPTH)
        else:
            slope = max(0.0, self.seconds - lesser.seconds) / (self.depth - lesser.depth)
        return self.seconds + slope * max(0, depth - self.depth)


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
        self._costs: dict[int, _Cost] = {}  # of one prompt token more, by class of depth
        self._latest = _FIRST_CHUNK // _MOST_GROWTH

    def max_prompt_tokens(self, scheduler: Scheduler) -> int:
        """For the next step, if others decode in it: at the depth of the deepest prompt that it may go on with."""
        depths = [r.num_computed_tokens for r in scheduler.running if r.num_tokens - r.num_computed_tokens > 1]
        if scheduler.prefix_cache is not None and scheduler.admits_waiting:
            for request in islice(scheduler.waiting, _WAITING_LOOKED_AT):
                scheduler.prefix_cache.match(request.prefix, request.token_ids, request.num_skippable_tokens)
                depths.append(request.prefix.length)
        return self.max_tokens_at(max(depths, default=0))

    def max_tokens_at(self, depth: int) -> int:
        """Tokens of prompts behind so many others that fit into a step beside those that decode."""
        left = self._max_seconds * _SAFETY - self._decode_seconds
        seconds = self._seconds_at(depth)
        if seconds is None:
            # A token of a prompt costs no more than a step for one token would, which reads all the weights for it.
            fitting, most = int(left / self._decode_seconds) if self._decode_seconds else _FIRST_CHUNK, _FIRST_CHUNK
        else:
            fitting = int(left / seconds) if seconds > 0 else self._max_tokens
            most = self._latest * _MOST_GROWTH
        return min(max(_SMALLEST_CHUNK, min(fitting, most)), self._max_tokens)

    def record(self, batch: ScheduledBatch, seconds: float) -> None:
        """Learn from a step."""
        prompts = [p for p in batch.requests if p.num_tokens > 1 and not p.drafts]
        num_prompt_tokens = sum(p.num_tokens for p in prompts)
        if num_prompt_tokens == 0:
            if not batch.requests or any(part.drafts for part in batch.requests):
                return  # drafts: there are none beside prompts
            self._decode_seconds = _towards(self._decode_seconds, seconds / batch.num_decode_steps)
            return
        decodes = any(p.num_tokens == 1 or p.drafts for p in batch.requests)
        latest = max(0.0, seconds - self._decode_seconds * decodes) / num_prompt_tokens
        if num_prompt_tokens >= _SMALLEST_CHUNK:  # the rest of a prompt says little about a whole chunk
            self._latest = num_prompt_tokens
            self._learn(max(p.start for p in prompts), latest)

    def _learn(self, depth: int, latest: float) -> None:
        if _class_of(depth) in self._costs:
            expected = self._seconds_at(depth)
            if expected is not None and latest <= expected:
                latest = _towards(expected, latest)
        # Else at once: the next step would be too long as well.
        self._costs[_class_of(depth)] = _Cost(depth, latest)

    def _seconds_at(self, depth: int) -> float | None:
        """Of a token: from what was measured at this depth, else at the nearest lesser one, else at a greater one."""
        below = sorted(number for number in self._costs if number <= _class_of(depth))
        if not below:
            return self._costs[min(self._costs)].seconds if self._costs else None
        lesser = self._costs[below[-2]] if len(below) > 1 else None
        return self._costs[below[-1]].at(depth, lesser)


def _class_of(depth: int) -> int:
    return (depth // _FIRST_DEPTH).bit_length()


def _towards(average: float, latest: float) -> float:
    return latest if average == 0.0 else 0.75 * average + 0.25 * latest
