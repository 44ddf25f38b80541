"""When a request is sent again, and after how long. Nothing here sends or waits.

Above: the two transports. Below: nothing but the errors. Backoff with jitter is that of Brooker, "Exponential backoff
and jitter" (2015), in the form that keeps half of the wait.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from glm_crush.client.refusals import retry_after_seconds

__all__ = ["Attempts", "RetryPolicy"]

_REFUSALS = (429, 503)  # the server says that it has not done it
_MAYBE_DONE = (408, 500, 502, 504)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often, and how patiently.

    Attributes:
        max_retries: after the first attempt.
        first_seconds, most_seconds: the wait doubles from the one up to the other.
        longest_wait_seconds: a server that wants to be left alone for longer is not asked again.
    """

    max_retries: int = 2
    first_seconds: float = 0.5
    most_seconds: float = 8.0
    longest_wait_seconds: float = 60.0
    random: random.Random = field(default_factory=random.Random)


class Attempts:
    """The attempts of one request; each question is asked once after an attempt that failed.

    Args:
        repeatable: see `Call`.
    """

    def __init__(self, policy: RetryPolicy, *, repeatable: bool) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._num_retries = 0

    def after_refusal(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait before the next attempt; None = there is none."""
        if headers.get("x-should-retry") == "false":
            return None
        if status not in _REFUSALS and not (self._repeatable and status in _MAYBE_DONE):
            return None
        return self._wait(retry_after_seconds(headers))

    def after_failure(self, *, sent: bool) -> float | None:
        """The same after a connection that failed; `sent`: the server may have got the request."""
        return self._wait(None) if self._repeatable or not sent else None

    def _wait(self, wanted: float | None) -> float | None:
        policy = self._policy
        if self._num_retries >= policy.max_retries or (wanted or 0.0) > policy.longest_wait_seconds:
            return None
        backoff = min(policy.most_seconds, policy.first_seconds * 2.0**self._num_retries)
        self._num_retries += 1
        jittered = backoff * policy.random.uniform(0.5, 1.0)
        # Many clients that were told the same moment must not all come back in it.
        return jittered if wanted is None else wanted + jittered * min(1.0, wanted) * 0.5
