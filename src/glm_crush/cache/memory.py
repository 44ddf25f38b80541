"""Replies in this process: the least recently used ones go when the bytes run out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from glm_crush.cache.reply import CachedReply

__all__ = ["MemoryReplies"]


class MemoryReplies:
    """A `ReplyStore` in memory, whose `peek` and `keep` need no event loop.

    Args:
        max_bytes: of all replies together. clock: seconds since 1970.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._replies: OrderedDict[str, CachedReply] = OrderedDict()
        self._num_bytes = 0
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def num_bytes(self) -> int:
        """Of what is kept."""
        return self._num_bytes

    def peek(self, key: str) -> CachedReply | None:
        """As `get`."""
        reply = self._replies.get(key)
        if reply is None:
            return None
        if reply.expires_at <= self._clock():
            self._drop(key)
            return None
        self._replies.move_to_end(key)
        return reply

    def keep(self, key: str, reply: CachedReply) -> None:
        """As `put`; a reply larger than the whole cache is not kept."""
        if key in self._replies:
            self._drop(key)
        if reply.num_bytes > self._max_bytes:
            return
        self._replies[key] = reply
        self._num_bytes += reply.num_bytes
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._replies)))

    def clear(self) -> None:
        """Forget all replies."""
        self._replies.clear()
        self._num_bytes = 0

    async def get(self, key: str) -> CachedReply | None:
        """The reply of a key."""
        return self.peek(key)

    async def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply."""
        self.keep(key, reply)

    async def epoch(self) -> int:
        """Of this process."""
        return self._epoch

    async def advance_epoch(self) -> int:
        """Forget everything."""
        self.clear()
        self._epoch += 1
        return self._epoch

    async def close(self) -> None:
        """Nothing to let go of."""

    def _drop(self, key: str) -> None:
        self._num_bytes -= self._replies.pop(key).num_bytes
