"""What goes on behind a match without a largest length: the rest of a token, the body of a key.

Above: the rules. Below: nothing. A tail is swallowed as it comes, so it holds nothing back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["TailOf", "TailUntil"]


@dataclass(frozen=True)
class TailOf:
    """As long as characters of a class follow."""

    pattern: re.Pattern[str]

    @classmethod
    def characters(cls, inside: str) -> TailOf:
        """Of a class such as `A-Za-z0-9`."""
        return cls(re.compile(f"[{inside}]*"))

    def end(self, text: str, position: int, taken: int, *, final: bool) -> tuple[int, bool]:  # noqa: ARG002
        """See `Tail`."""
        found = self.pattern.match(text, position)
        assert found is not None  # nothing matches too
        return found.end(), final or found.end() < len(text)


@dataclass(frozen=True)
class TailUntil:
    """Up to the first match of `stop` and with it, but no more than `most` characters."""

    stop: re.Pattern[str]
    largest_stop: int
    most: int

    def end(self, text: str, position: int, taken: int, *, final: bool) -> tuple[int, bool]:
        """See `Tail`."""
        limit = position + self.most - taken
        found = self.stop.search(text, position, limit)
        if found is not None:
            return found.end(), True
        if final or limit <= len(text):
            return min(limit, len(text)), True
        return max(position, len(text) - self.largest_stop + 1), False
