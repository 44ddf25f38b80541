"""Which requests have run out of time. Above: the engine."""

from __future__ import annotations

import heapq

from glm_crush.errors import DeadlineError

__all__ = ["Deadlines", "deadline_error"]


class Deadlines:
    """Requests that must be done by some time, the nearest first.

    Args:
        default_seconds: for requests that come without a time; None = they may take as long as it takes.
    """

    def __init__(self, default_seconds: float | None = None) -> None:
        self.default_seconds = default_seconds
        self._heap: list[tuple[float, str, float]] = []  # entries of requests that have ended are dropped when due
        self._due: dict[str, float] = {}

    def add(self, request_id: str, now: float, seconds: float | None) -> None:
        """A request arrives that must be done within `seconds`; None = as the default says."""
        seconds = self.default_seconds if seconds is None else seconds
        if seconds is None:
            return
        self._due[request_id] = now + seconds
        heapq.heappush(self._heap, (now + seconds, request_id, seconds))

    def nearest(self) -> float | None:
        """When the next of them is due; None = none ever is. A request that has ended may still count."""
        return self._heap[0][0] if self._heap else None

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._due.pop(request_id, None)

    def expired(self, now: float) -> list[tuple[str, float]]:
        """Requests whose time is over, with the time they had; each is named once."""
        expired: list[tuple[str, float]] = []
        while self._heap and self._heap[0][0] <= now:
            due, request_id, seconds = heapq.heappop(self._heap)
            if self._due.get(request_id) == due:
                del self._due[request_id]
                expired.append((request_id, seconds))
        return expired


def deadline_error(seconds: float, *, has_begun: bool) -> DeadlineError:
    """What the caller of an expired request is told."""
    where = "in the middle of the reply" if has_begun else "before the request had its turn"
    return DeadlineError(f"the deadline of {seconds:g} s passed {where}; allow more time or try when less is going on")
