"""Stop strings in a stream of text pieces: found across pieces, never emitted.

Above: `reply`. This module knows neither tokens nor models.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Passes text through, holding back what could still become a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self.matched: str | None = None  # the stop string that ended the text

    def push(self, piece: str) -> str:
        """Take the next piece of text; returns what is now certain to be part of the reply.

        The stop string that begins first ends the text; of two that begin at the same place, the shorter. After a
        match the rest of the text is dropped. How the text is cut into pieces makes no difference.
        """
        if not self._stop:
            return piece
        if self.matched is not None:
            return ""
        text = self._held + piece
        first_open = self._first_open(text)
        # A longer string may be under way that begins earlier: "abcd" before "bc".
        emitted = self._match(text, before=first_open)
        if emitted is not None:
            return emitted
        self._held = text[first_open:]
        return text[:first_open]

    def flush(self) -> str:
        """The text held back, now that no more will come."""
        text, self._held = self._held, ""
        emitted = self._match(text, before=len(text))
        return text if emitted is None else emitted

    def _match(self, text: str, *, before: int) -> str | None:
        """The text ahead of the first stop string, if one begins at `before` at the latest."""
        found = [(text.find(stop), len(stop), stop) for stop in self._stop if stop in text]
        if not found or min(found)[0] > before:
            return None
        start, _, self.matched = min(found)
        self._held = ""
        return text[:start]

    def _first_open(self, text: str) -> int:
        """Where the earliest tail of `text` begins that is a proper start of a stop string, or the end of `text`."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                return start
        return len(text)
