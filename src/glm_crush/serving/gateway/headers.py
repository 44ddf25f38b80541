"""What a reply says of the limits: OpenAI's `x-ratelimit-*`, and Anthropic's on its own routes.

Above: the middleware. Below: `limits.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from glm_crush.serving.gateway.limits import LimitState

__all__ = ["Headers", "duration", "limit_headers"]

Headers = list[tuple[bytes, bytes]]

# In OpenAI's headers a limit is of a minute; what clients watch are these two.
_SHOWN = (("requests_per_minute", b"requests"), ("tokens_per_minute", b"tokens"))


def limit_headers(limits: Mapping[str, LimitState], *, anthropic: bool = False) -> Headers:
    """The headers for the limits that were charged; none for a key without limits."""
    headers: Headers = []
    for name, word in _SHOWN:
        state = limits.get(name)
        if state is None:
            continue
        limit, remaining = str(state.limit).encode(), str(state.remaining).encode()
        headers += [
            (b"x-ratelimit-limit-" + word, limit),
            (b"x-ratelimit-remaining-" + word, remaining),
            (b"x-ratelimit-reset-" + word, duration(state.reset_seconds).encode()),
        ]
        if anthropic:
            reset = datetime.fromtimestamp(math.ceil(time.time() + state.reset_seconds), UTC)
            headers += [
                (b"anthropic-ratelimit-" + word + b"-limit", limit),
                (b"anthropic-ratelimit-" + word + b"-remaining", remaining),
                (b"anthropic-ratelimit-" + word + b"-reset", f"{reset:%Y-%m-%dT%H:%M:%SZ}".encode()),
            ]
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes them: 12ms, 1.5s, 6m0s, 3h25m0s; rounded up, so that waiting that long is enough."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
