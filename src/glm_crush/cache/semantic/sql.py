"""Questions in the SQL database: what was learnt of them outlives a restart, and servers on one database share it.

Above: the composition root, which imports it when it is first needed. Below: `storage`. Expired rows go when new ones
come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

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

from glm_crush.cache.semantic.entry import SemanticEntry
from glm_crush.storage.database import Database
from glm_crush.storage.schema import Schema

__all__ = ["SCHEMA", "SqlEntries"]


def _tables(metadata: MetaData) -> tuple[Table, Table]:
    entries = Table(
        "semantic_entries",
        metadata,
        Column("id", String(64), primary_key=True),
        Column("scope", String(64), nullable=False),
        Column("tenant", String(200), nullable=False),
        Column("entry", LargeBinary, nullable=False),
        Column("expires_at", Float(53), nullable=False),
        Index("semantic_entries_by_scope", "scope"),
        Index("semantic_entries_by_tenant", "tenant", "expires_at"),
        Index("semantic_entries_by_expiry", "expires_at"),
    )
    evidence = Table(
        "semantic_evidence",
        metadata,
        Column("id", String(64), primary_key=True),
        Column("band", Integer, primary_key=True),
        Column("num_right", Integer, nullable=False),
        Column("num_wrong", Integer, nullable=False),
    )
    return entries, evidence


_METADATA = MetaData()
_ENTRIES, _EVIDENCE = _tables(_METADATA)


def _m001_entries(connection: Connection) -> None:
    metadata = MetaData()
    _tables(metadata)
    metadata.create_all(connection, checkfirst=False)


SCHEMA = Schema("semantic_cache", _METADATA, (_m001_entries,))


class SqlEntries:
    """A `SemanticStore` on a database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def open(self) -> None:
        """Make or migrate the tables. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def load(self, scope: str) -> Sequence[SemanticEntry]:
        """The questions of a scope with their evidence."""
        alive = (_ENTRIES.c.scope == scope) & (_ENTRIES.c.expires_at > self._clock())

        def work(connection: Connection) -> list[SemanticEntry]:
            rows = connection.execute(select(_ENTRIES.c.entry).where(alive)).scalars().all()
            entries = {entry.entry_id: entry for entry in map(SemanticEntry.unpack, rows)}
            known = select(_EVIDENCE).where(_EVIDENCE.c.id.in_(select(_ENTRIES.c.id).where(alive)))
            for entry_id, band, num_right, num_wrong in connection.execute(known):
                evidence = entries[entry_id].evidence
                evidence.right[band], evidence.wrong[band] = num_right, num_wrong
            return list(entries.values())

        return await self._database.read(work)

    async def put(self, entry: SemanticEntry, *, max_entries: int) -> None:
        """Keep a question; what has expired, and what is too much of its tenant, makes room."""
        row = {"scope": entry.scope, "tenant": entry.tenant, "entry": entry.pack(), "expires_at": entry.expires_at}

        def work(connection: Connection) -> None:
            _forget(connection, _ENTRIES.c.expires_at <= self._clock())
            this = _ENTRIES.c.id == entry.entry_id
            if connection.execute(update(_ENTRIES).where(this).values(row)).rowcount == 0:
                connection.execute(insert(_ENTRIES).values(id=entry.entry_id, **row))
            newest = _ENTRIES.c.expires_at.desc(), _ENTRIES.c.id
            own = select(_ENTRIES.c.id).where(_ENTRIES.c.tenant == entry.tenant).order_by(*newest)
            surplus = connection.execute(own.offset(max_entries)).scalars().all()
            if surplus:
                _forget(connection, _ENTRIES.c.id.in_(surplus))

        await self._database.write(work)

    async def add_evidence(self, entry: SemanticEntry, band: int, *, right: bool) -> None:
        """Count one comparison more."""
        more_right, more_wrong = int(right), int(not right)

        def work(connection: Connection) -> None:
            this = (_EVIDENCE.c.id == entry.entry_id) & (_EVIDENCE.c.band == band)
            counts = {
                "num_right": _EVIDENCE.c.num_right + more_right,
                "num_wrong": _EVIDENCE.c.num_wrong + more_wrong,
            }
            if connection.execute(update(_EVIDENCE).where(this).values(counts)).rowcount == 0:
                first = {"num_right": more_right, "num_wrong": more_wrong}
                connection.execute(insert(_EVIDENCE).values(id=entry.entry_id, band=band, **first))

        await self._database.write(work)

    async def clear(self) -> None:
        """Forget everything."""

        def work(connection: Connection) -> None:
            connection.execute(delete(_EVIDENCE))
            connection.execute(delete(_ENTRIES))

        await self._database.write(work)

    async def close(self) -> None:
        """The database is its owner's to close."""


def _forget(connection: Connection, which: object) -> None:
    gone = select(_ENTRIES.c.id).where(which)  # type: ignore[arg-type]  # a condition over entries
    connection.execute(delete(_EVIDENCE).where(_EVIDENCE.c.id.in_(gone)))
    connection.execute(delete(_ENTRIES).where(which))  # type: ignore[arg-type]
