"""How urgent the work is that runs now: what has no client waiting for it gives way in the engine.

Above: whoever does such work. Below: `ServedModel.generate`, which hands it to the engine. It follows into tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["IDLE_PRIORITY", "at_priority", "current_priority"]

IDLE_PRIORITY = 10  # lower goes first; requests of clients have 0

_CURRENT: ContextVar[int] = ContextVar("glm_priority", default=0)


def current_priority() -> int:
    """The priority of what runs now."""
    return _CURRENT.get()


@contextmanager
def at_priority(priority: int) -> Iterator[None]:
    """Run a block, and the tasks it starts, at this priority."""
    token = _CURRENT.set(priority)
    try:
        yield
    finally:
        _CURRENT.reset(token)
