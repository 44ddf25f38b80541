"""All open connections of a server: how many there may be, and which one has to go for a new one.

Above: `guarded_protocol.py`. A connection is idle until it has sent a whole request, and again when that is answered.
When all places are taken, the one that has been idle longest makes room: sockets that somebody opens and leaves, or
trickles into, cannot shut out those who have something to ask. Only when every connection has a request under way is a
new one refused.
"""

from __future__ import annotations

import resource
from typing import Protocol

from glm_crush.errors import ConfigError

__all__ = ["Connections", "Evictable", "connection_limit"]

_OTHER_FILES = 256  # models, databases, pipes to the engine
_MOST_UNASKED = 4096


class Evictable(Protocol):
    """A connection that can be told to go."""

    def evict(self) -> None:
        """Close at once, without a reply."""
        ...


class Connections:
    """The connections of one server, for its event loop.

    Args:
        limit: how many may be open.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[Evictable, None] = {}  # the longest idle first
        self._busy: set[Evictable] = set()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._idle) + len(self._busy)

    def add(self, connection: Evictable) -> bool:
        """Take in a new one; False if there is no room and none can be made."""
        if len(self) >= self._limit:
            oldest = next(iter(self._idle), None)
            if oldest is None:
                return False
            self.remove(oldest)
            oldest.evict()
        self._idle[connection] = None
        return True

    def remove(self, connection: Evictable) -> None:
        """It is closed; removing it again changes nothing."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def set_busy(self, connection: Evictable) -> None:
        """It has a request under way."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def set_idle(self, connection: Evictable) -> None:
        """Its request is answered."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None


def connection_limit(wanted: int | None) -> int:
    """How many connections there may be; raises this process' limit of open files as far as that needs.

    Raises:
        ConfigError: so many files may not be open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_UNASKED + _OTHER_FILES if hard == resource.RLIM_INFINITY else hard
    limit = wanted if wanted is not None else max(1, min(_MOST_UNASKED, allowed - _OTHER_FILES))
    needed = limit + _OTHER_FILES
    if wanted is not None and hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigError(
            f"gateway.max_connections is {wanted}, and this process may open {hard} files, {_OTHER_FILES} of which are "
            "for other things; lower it or raise `ulimit -Hn`"
        )
    if soft != resource.RLIM_INFINITY and soft < needed and (hard == resource.RLIM_INFINITY or needed <= hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return limit
