"""Replies in the SQL database: they outlive a restart, and servers on one database share them.

Above: `tiered`. Below: `storage`. Expired rows go when new ones come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from glm_crush.cache.reply import CachedReply
from glm_crush.storage.database import Database
from glm_crush.storage.schema import Schema

__all__ = ["SCHEMA", "SqlReplies"]

_METADATA = MetaData()
_REPLIES = Table(
    "cached_replies",
    _METADATA,
    Column("key", String(64), primary_key=True),
    Column("reply", LargeBinary, nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Index("cached_replies_by_expiry", "expires_at"),
)
_EPOCHS = Table("cache_epochs", _METADATA, Column("name", String(64), primary_key=True), Column("epoch", Integer))
_EPOCH = "replies"


def _m001_replies(connection: Connection) -> None:
    metadata = MetaData()
    Table(
        "cached_replies",
        metadata,
        Column("key", String(64), primary_key=True),
        Column("reply", LargeBinary, nullable=False),
        Column("expires_at", Float(53), nullable=False),
        Index("cached_replies_by_expiry", "expires_at"),
    )
    Table("cache_epochs", metadata, Column("name", String(64), primary_key=True), Column("epoch", Integer))
    metadata.create_all(connection, checkfirst=False)


SCHEMA = Schema("response_cache", _METADATA, (_m001_replies,))


class SqlReplies:
    """A `ReplyStore` on a database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def open(self) -> None:
        """Make or migrate the tables. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def get(self, key: str) -> CachedReply | None:
        """The reply of a key, if it has not expired."""
        alive = (_REPLIES.c.key == key) & (_REPLIES.c.expires_at > self._clock())
        data = await self._database.read(lambda connection: connection.scalar(select(_REPLIES.c.reply).where(alive)))
        return None if data is None else CachedReply.unpack(data)

    async def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply; what has expired by now makes room."""
        row = {"key": key, "reply": reply.pack(), "expires_at": reply.expires_at}
        gone = (_REPLIES.c.key == key) | (_REPLIES.c.expires_at <= self._clock())

        def work(connection: Connection) -> None:
            connection.execute(delete(_REPLIES).where(gone))
            connection.execute(insert(_REPLIES).values(row))

        await self._database.write(work)

    async def epoch(self) -> int:
        """The shared one."""
        return await self._database.read(_read_epoch)

    async def advance_epoch(self) -> int:
        """Forget everything."""

        def work(connection: Connection) -> int:
            connection.execute(delete(_REPLIES))
            epoch = _read_epoch(connection) + 1
            if connection.execute(update(_EPOCHS).where(_EPOCHS.c.name == _EPOCH).values(epoch=epoch)).rowcount == 0:
                connection.execute(insert(_EPOCHS).values(name=_EPOCH, epoch=epoch))
            return epoch

        return await self._database.write(work)

    async def close(self) -> None:
        """The database is its owner's to close."""


def _read_epoch(connection: Connection) -> int:
    return connection.scalar(select(_EPOCHS.c.epoch).where(_EPOCHS.c.name == _EPOCH)) or 0
