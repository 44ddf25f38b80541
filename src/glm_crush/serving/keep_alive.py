"""`keep_alive`: how long a model stays loaded after a request, as Go writes durations or as seconds.

Above: Ollama's routes, the routes of operators, `glm serve --model-ttl`.
"""

from __future__ import annotations

import math
import re

from glm_crush.errors import InvalidParameterError

__all__ = ["keep_alive_seconds"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_LONGEST = 10 * 365 * 86400.0


def keep_alive_seconds(value: str | float) -> float:
    """Seconds; all negative values are for ever.

    Raises:
        InvalidParameterError: it is no duration.
    """
    seconds = _parsed(value) if isinstance(value, str) else float(min(value, _LONGEST))
    return math.inf if seconds < 0 else min(seconds, _LONGEST)


def _parsed(text: str) -> float:
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if digits.isascii() and digits.isdigit():
        return sign * min(float(digits[:20]), _LONGEST)
    parts = _PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits or len(digits) > 60:
        raise InvalidParameterError(
            f"keep_alive is {text!r:.60}; give seconds, or a duration such as 5m or 1h30m", parameter="keep_alive"
        )
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
