"""Closes what its owner left open when the program ends.

Above: `sync_engine`, `async_engine`. A daemon thread inside a native call while the interpreter is taken down would end
the process with a crash, and one that only holds an engine would let its native memory be reported as leaked.
"""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

__all__ = ["close_at_exit"]


class _Closeable(Protocol):
    def close(self) -> None:
        """May be called twice."""


def close_at_exit(owner: _Closeable) -> None:
    """Have `owner` closed before the interpreter goes; keeps it no longer alive than others do."""
    reference = weakref.ref(owner)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)
    weakref.finalize(owner, atexit.unregister, close).atexit = False
