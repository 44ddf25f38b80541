"""Lines of a text that comes in pieces: cut at line feeds only.

Above: the streams, the batch verb. Below: nothing. `str.splitlines`, and what is built on it, also cuts at characters
that JSON may hold, such as U+2028.
"""

from __future__ import annotations

__all__ = ["LineCutter"]


class LineCutter:
    """Cuts bytes into lines of text; empty ones are left out."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def cut(self, data: bytes) -> list[str]:
        """The lines that end in this piece."""
        *whole, begun = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._begun, whole[0]))
            self._begun = []
        self._begun.append(begun)
        return [line.decode() for line in whole if line.strip()]

    def rest(self) -> list[str]:
        """The last line, if no line feed ends it."""
        line = b"".join(self._begun)
        return [line.decode()] if line.strip() else []
