"""Replies in the SQL database without waiting for it: it is opened soon after the first request, a miss anyway, began.

Above: the composition root. Below: `sql`, imported in a thread when it is first needed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from glm_crush.cache.reply import CachedReply
from glm_crush.storage.lazy import LazyDatabase

if TYPE_CHECKING:
    from glm_crush.cache.sql import SqlReplies

__all__ = ["LazySqlReplies"]

_PAUSE_SECONDS = 0.25  # importing what opens a database would hold up the first tokens


class LazySqlReplies:
    """A `ReplyStore` that knows nothing until its database is open."""

    def __init__(self, database: LazyDatabase) -> None:
        self._database = database
        self._opening: asyncio.Task[SqlReplies] | None = None

    async def get(self, key: str) -> CachedReply | None:
        """The reply of a key; None while the database is being opened."""
        opening = self._begin()
        return await opening.result().get(key) if opening.done() else None

    async def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply, once the database is open."""
        await (await self._begin()).put(key, reply)

    async def epoch(self) -> int:
        """0 while the database is being opened: what is kept until then is forgotten."""
        opening = self._begin()
        return await opening.result().epoch() if opening.done() else 0

    async def advance_epoch(self) -> int:
        """Forget everything."""
        return await (await self._begin()).advance_epoch()

    async def close(self) -> None:
        """The database is its owner's to close; wait only for its opening."""
        if self._opening is not None:
            await asyncio.wait([self._opening])

    def _begin(self) -> asyncio.Task[SqlReplies]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return self._opening

    async def _open(self) -> SqlReplies:
        await asyncio.sleep(_PAUSE_SECONDS)
        database = await self._database.open()
        from glm_crush.cache.sql import SqlReplies

        replies = SqlReplies(database)
        await replies.open()
        return replies
