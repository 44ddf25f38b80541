"""How many tokens one native call draws per request while nothing but decoding goes on.

A call has a fixed price in Python: some 0.2 ms with cold caches, a seventh of a decode step of a small model.
Drawing a few tokens per call shares it; a newcomer then waits for the call to end, so calls stay short. Above: the
engine.
"""

from __future__ import annotations

__all__ = ["DecodePacer"]


class DecodePacer:
    """Chooses the number of decode steps per call so that a call takes about `target_seconds`."""

    def __init__(self, *, max_steps: int, target_seconds: float = 0.016) -> None:
        self.num_steps = 1
        self._max_steps = max_steps
        self._target_seconds = target_seconds
        self._step_seconds: float | None = None

    def record(self, num_steps: int, seconds: float) -> None:
        """Learn from a call of decode steps."""
        latest = seconds / num_steps
        # One slow call, say on a busy machine, must not weigh much; the load changes within a few calls.
        self._step_seconds = latest if self._step_seconds is None else 0.75 * self._step_seconds + 0.25 * latest
        steps = self._target_seconds / self._step_seconds if self._step_seconds > 0 else self._max_steps
        self.num_steps = max(1, min(self._max_steps, int(steps)))
