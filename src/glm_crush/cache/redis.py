"""Replies in Redis or Valkey, shared by all servers that name it; it forgets them itself when they expire.

Above: `tiered`. Below: redis-py (the extra `redis`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from glm_crush.cache.reply import CachedReply
from glm_crush.errors import StorageError

__all__ = ["RedisReplies"]

Result = TypeVar("Result")
_PREFIX = "glm:reply:"
_EPOCH = "glm:reply-epoch"
_TIMEOUT_SECONDS = 1.0


class RedisReplies:
    """A `ReplyStore` on a Redis server. An advanced epoch leaves old replies unreachable until they expire."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._clock = clock
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )

    async def get(self, key: str) -> CachedReply | None:
        """The reply of a key."""
        data: Any = await self._ask(self._redis.get(_PREFIX + key))
        return None if data is None else CachedReply.unpack(data)

    async def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply until it expires."""
        seconds = math.ceil(reply.expires_at - self._clock())
        if seconds > 0:
            await self._ask(self._redis.set(_PREFIX + key, reply.pack(), ex=seconds))

    async def epoch(self) -> int:
        """The shared one."""
        return int(await self._ask(self._redis.get(_EPOCH)) or 0)

    async def advance_epoch(self) -> int:
        """Forget everything."""
        return int(await self._ask(self._redis.incr(_EPOCH)))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _ask(self, answer: Awaitable[Result]) -> Result:
        try:
            return await answer
        except RedisError as error:
            raise StorageError(f"the cache's Redis does not answer: {error}; see cache.redis_url") from error
