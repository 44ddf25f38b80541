"""When a child that died is started again: at once if it had lived well, later and later if it had not.

Above: the supervisor. Knows neither processes nor clocks: it is told the time.
"""

from __future__ import annotations

from collections import deque

__all__ = ["RestartPolicy"]

_WINDOW_SECONDS = 60.0
_GOOD_LIFE_SECONDS = 1.0
_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 5.0


class RestartPolicy:
    """Back-off and a limit of restarts per minute.

    Attributes:
        exhausted: the limit is reached; the next start waits until the oldest in the last minute is over.
    """

    def __init__(self, *, max_per_minute: int) -> None:
        self.exhausted = False
        self._max_per_minute = max_per_minute
        self._restarts: deque[float] = deque()
        self._num_short_lives = 0

    def next_start(self, now: float, *, lived_seconds: float) -> float:
        """When to start again after a death at `now`; it had taken requests for `lived_seconds`."""
        while self._restarts and self._restarts[0] <= now - _WINDOW_SECONDS:
            self._restarts.popleft()
        self._num_short_lives = 0 if lived_seconds >= _GOOD_LIFE_SECONDS else self._num_short_lives + 1
        delay = 0.0
        if self._num_short_lives > 1:
            delay = min(_FIRST_DELAY_SECONDS * 2.0 ** (self._num_short_lives - 2), _LONGEST_DELAY_SECONDS)
        self.exhausted = len(self._restarts) >= self._max_per_minute
        start = now + delay
        if self.exhausted:
            start = max(start, self._restarts[0] + _WINDOW_SECONDS)
        self._restarts.append(start)
        return start
