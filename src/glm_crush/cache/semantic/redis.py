"""Questions in Redis or Valkey: servers that share answers share what they learn of them.

Above: the composition root. Below: redis-py (the extra `redis`). A scope is a hash of its questions, the evidence of
one question a hash of counters, a tenant a sorted set by expiry; each goes by itself when it has not been written for
the time to live.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from glm_crush.cache.semantic.entry import SemanticEntry
from glm_crush.errors import StorageError

__all__ = ["RedisEntries"]

Result = TypeVar("Result")
_SCOPE, _EVIDENCE, _TENANT = "glm:semantic:scope:", "glm:semantic:evidence:", "glm:semantic:tenant:"
_TIMEOUT_SECONDS = 1.0


class RedisEntries:
    """A `SemanticStore` on a Redis server."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )

    async def load(self, scope: str) -> Sequence[SemanticEntry]:
        """The questions of a scope with their evidence."""
        packed: Any = await self._ask(self._redis.hvals(_SCOPE + scope))
        entries = [entry for data in packed if (entry := SemanticEntry.unpack(data)).expires_at > self._clock()]
        pipeline = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipeline.hgetall(_EVIDENCE + entry.entry_id)
        counts: Any = await self._ask(pipeline.execute()) if entries else []
        for entry, counters in zip(entries, counts, strict=True):
            for name, count in counters.items():
                side = entry.evidence.right if name[:1] == b"r" else entry.evidence.wrong
                side[int(name[1:])] = int(count)
        return entries

    async def put(self, entry: SemanticEntry, *, max_entries: int) -> None:
        """Keep a question; those of its tenant that expire first make room."""
        seconds = max(1, math.ceil(entry.expires_at - self._clock()))
        tenant, member = _TENANT + entry.tenant, f"{entry.scope} {entry.entry_id}"
        pipeline = self._redis.pipeline()
        pipeline.hset(_SCOPE + entry.scope, entry.entry_id, entry.pack())
        pipeline.zadd(tenant, {member: entry.expires_at})
        for key in (_SCOPE + entry.scope, tenant, _EVIDENCE + entry.entry_id):
            pipeline.expire(key, seconds)
        pipeline.zrange(tenant, 0, -max_entries - 1)
        surplus: Any = (await self._ask(pipeline.execute()))[-1]
        if surplus:
            await self._forget(tenant, surplus)

    async def add_evidence(self, entry: SemanticEntry, band: int, *, right: bool) -> None:
        """Count one comparison more."""
        key = _EVIDENCE + entry.entry_id
        pipeline = self._redis.pipeline()
        pipeline.hincrby(key, f"{'r' if right else 'w'}{band}", 1)
        pipeline.expire(key, max(1, math.ceil(entry.expires_at - self._clock())))
        await self._ask(pipeline.execute())

    async def clear(self) -> None:
        """Forget everything."""

        async def work() -> None:
            keys = [key async for key in self._redis.scan_iter("glm:semantic:*", count=1000)]
            for start in range(0, len(keys), 1000):
                await self._redis.delete(*keys[start : start + 1000])

        await self._ask(work())

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _forget(self, tenant: str, members: Sequence[bytes]) -> None:
        pipeline = self._redis.pipeline()
        for member in members:
            scope, entry_id = member.decode().split(" ")
            pipeline.hdel(_SCOPE + scope, entry_id)
            pipeline.delete(_EVIDENCE + entry_id)
        pipeline.zrem(tenant, *members)
        await self._ask(pipeline.execute())

    async def _ask(self, answer: Awaitable[Result]) -> Result:
        try:
            return await answer
        except RedisError as error:
            raise StorageError(f"the cache's Redis does not answer: {error}; see cache.redis_url") from error
