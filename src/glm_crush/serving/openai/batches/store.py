"""Batches in the database: a row for each, and one for each of its lines that is done.

Above: the routes and the runner. Below: `storage`. A line that is done is stored together with the batch's counters and
is never run again; a batch at work is leased to the server that works on it, as responses are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from glm_crush.serving.openai.files.store import StoredFile, insert_file
from glm_crush.serving.openai.listing import Page, PageQuery, may_be_id
from glm_crush.serving.openai.paging import read_page
from glm_crush.storage.database import Database
from glm_crush.storage.schema import Schema

__all__ = ["SCHEMA", "BatchStore", "LineResult", "StoredBatch"]

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")

_METADATA = MetaData()


def _tables(metadata: MetaData) -> tuple[Table, Table]:
    batches = Table(
        "batches",
        metadata,
        Column("id", String(64), primary_key=True),
        Column("tenant", String(200), nullable=False),
        Column("key_id", String(200)),
        Column("created_at", Float(53), nullable=False),
        Column("expires_at", Float(53), nullable=False),
        Column("status", String(20), nullable=False),
        Column("endpoint", String(200), nullable=False),
        Column("input_file_id", String(64), nullable=False),
        Column("request", Text, nullable=False),
        Column("model", Text),
        Column("errors", Text),
        Column("times", Text, nullable=False),
        Column("total", Integer, nullable=False),
        Column("completed", Integer, nullable=False),
        Column("failed", Integer, nullable=False),
        *(Column(name, BigInteger, nullable=False) for name in _USAGE),
        Column("output_file_id", String(64)),
        Column("error_file_id", String(64)),
        Column("owner", String(64), nullable=False),
        Column("lease_until", Float(53), nullable=False),
        Index("batches_by_tenant", "tenant", "created_at", "id"),
        Index("batches_by_lease", "status", "lease_until"),
    )
    lines = Table(
        "batch_lines",
        metadata,
        Column("batch_id", String(64), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("failed", Boolean, nullable=False),
        Column("result", Text, nullable=False),
    )
    return batches, lines


_USAGE = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_BATCHES, _LINES = _tables(_METADATA)


def _m001_batches(connection: Connection) -> None:
    metadata = MetaData()
    _tables(metadata)  # a change to `_tables` copies the old ones here
    metadata.create_all(connection)


SCHEMA = Schema("batches", _METADATA, (_m001_batches,))


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """One batch.

    Attributes:
        key_id: on whose behalf it runs. request: what created it. times: when it came to which status.
        errors: why its input was refused. usage: tokens so far.
    """

    id: str
    tenant: str
    key_id: str | None
    created_at: float
    expires_at: float
    status: str
    endpoint: str
    input_file_id: str
    request: Mapping[str, Any]
    model: str | None = None
    errors: Sequence[Mapping[str, Any]] | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(_USAGE, 0))
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something left to do."""
        return self.status in UNFINISHED


@dataclass(frozen=True)
class LineResult:
    """What became of one line; `record` is the line of the output or of the error file."""

    number: int
    failed: bool
    record: Mapping[str, Any]
    usage: Mapping[str, int]


class BatchStore:
    """All batches of a server.

    Args:
        database: with the rows. owner: this server process.
        lease_seconds: how long work is this server's without being renewed. now: the time.
    """

    def __init__(
        self, database: Database, *, owner: str, lease_seconds: float = 15.0, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._owner = owner
        self.lease_seconds = lease_seconds
        self.now = now

    async def open(self) -> None:
        """Bring the tables up to date. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def add(self, batch: StoredBatch) -> None:
        """Store a new batch; nobody works on it yet."""
        values = {
            **{name: getattr(batch, name) for name in ("id", "tenant", "key_id", "created_at", "expires_at", "status")},
            "endpoint": batch.endpoint,
            "input_file_id": batch.input_file_id,
            "request": _text(batch.request),
            "times": _text(batch.times),
            **dict.fromkeys(("total", "completed", "failed", *_USAGE), 0),
            "owner": "",
            "lease_until": 0.0,
        }
        await self._database.write(lambda connection: connection.execute(insert(_BATCHES).values(values)))

    async def find(self, tenant: str, batch_id: str) -> StoredBatch | None:
        """One batch; None if this tenant has none of that id."""
        if not may_be_id(batch_id):
            return None
        where = (_BATCHES.c.id == batch_id, _BATCHES.c.tenant == tenant)
        rows = await self._database.read(lambda c: c.execute(select(_BATCHES).where(*where)).all())
        return _batch(rows[0]) if rows else None

    async def page(self, tenant: str, query: PageQuery) -> Page:
        """A page of `StoredBatch`."""
        page = await self._database.read(lambda c: read_page(c, _BATCHES, query, _BATCHES.c.tenant == tenant))
        return Page([_batch(row) for row in page.items], page.has_more)

    async def claim(self) -> Sequence[StoredBatch]:
        """Batches that nobody works on, oldest first, now leased to this server and to no other."""
        free = (_BATCHES.c.status.in_(UNFINISHED), _BATCHES.c.lease_until < self.now())

        def claim(connection: Connection) -> Sequence[StoredBatch]:
            chosen = select(_BATCHES).where(*free).order_by(_BATCHES.c.created_at)
            rows = connection.execute(chosen.with_for_update(skip_locked=True)).all()
            connection.execute(
                update(_BATCHES)
                .where(_BATCHES.c.id.in_([row.id for row in rows]))
                .values(owner=self._owner, lease_until=self.now() + self.lease_seconds)
            )
            return [_batch(row) for row in rows]

        return await self._database.write(claim)

    async def renew(self, batch_ids: Collection[str]) -> Mapping[str, str]:
        """Keep what this server works on; the status of those that are still its to finish."""
        mine = (_BATCHES.c.id.in_(batch_ids), _BATCHES.c.owner == self._owner, _BATCHES.c.status.in_(UNFINISHED))

        def renew(connection: Connection) -> Mapping[str, str]:
            connection.execute(update(_BATCHES).where(*mine).values(lease_until=self.now() + self.lease_seconds))
            return {row.id: row.status for row in connection.execute(select(_BATCHES).where(*mine))}

        return await self._database.write(renew)

    async def release(self, batch_ids: Collection[str]) -> None:
        """Let others go on at once with what this server will not finish."""
        mine = (_BATCHES.c.id.in_(batch_ids), _BATCHES.c.owner == self._owner)
        statement = update(_BATCHES).where(*mine).values(lease_until=0.0)
        await self._database.write(lambda connection: connection.execute(statement))

    async def set_status(
        self, batch_id: str, status: str, *, instead_of: Collection[str], **values: Any
    ) -> StoredBatch | None:
        """Bring a batch from one of some statuses to another; the batch as it then is, None if it was in none."""
        if "errors" in values:
            values["errors"] = _text(values["errors"])

        def change(connection: Connection) -> StoredBatch | None:
            where = (_BATCHES.c.id == batch_id, _BATCHES.c.status.in_(instead_of))
            row = connection.execute(select(_BATCHES).where(*where).with_for_update()).one_or_none()
            if row is None:
                return None
            times = _text({**json.loads(row.times), f"{status}_at": self.now()})
            connection.execute(update(_BATCHES).where(*where).values(status=status, times=times, **values))
            return _batch(connection.execute(select(_BATCHES).where(_BATCHES.c.id == batch_id)).one())

        return await self._database.write(change)

    async def add_line(self, batch_id: str, result: LineResult) -> bool:
        """Store what became of a line, and count it; False if that was known already."""
        column = _BATCHES.c.failed if result.failed else _BATCHES.c.completed
        counts = {column.name: column + 1}
        counts |= {name: _BATCHES.c[name] + result.usage.get(name, 0) for name in _USAGE}
        values = {
            "batch_id": batch_id,
            "number": result.number,
            "failed": result.failed,
            "result": _text(result.record),
        }

        def write(connection: Connection) -> None:
            connection.execute(insert(_LINES).values(values))
            connection.execute(update(_BATCHES).where(_BATCHES.c.id == batch_id).values(counts))

        try:
            await self._database.write(write)
        except IntegrityError:
            return False
        return True

    async def finished_lines(self, batch_id: str) -> set[int]:
        """The numbers of the lines that are done."""
        statement = select(_LINES.c.number).where(_LINES.c.batch_id == batch_id)
        return await self._database.read(lambda connection: set(connection.scalars(statement)))

    async def records(self, batch_id: str, *, failed: bool, after: int, limit: int) -> list[tuple[int, str]]:
        """Records of done lines in the order of the input: number, and the JSON text."""
        statement = (
            select(_LINES.c.number, _LINES.c.result)
            .where(_LINES.c.batch_id == batch_id, _LINES.c.failed == failed, _LINES.c.number > after)
            .order_by(_LINES.c.number)
            .limit(limit)
        )
        return await self._database.read(lambda c: [(row.number, row.result) for row in c.execute(statement)])

    async def finish(
        self, batch: StoredBatch, status: str, *, output: StoredFile | None, errors: StoredFile | None, failed: int
    ) -> None:
        """Store the files and the end of a batch in one step; the lines are in the files now."""

        def write(connection: Connection) -> None:
            mine = (
                _BATCHES.c.id == batch.id,
                _BATCHES.c.owner == self._owner,
                _BATCHES.c.status.in_(UNFINISHED),
            )
            row = connection.execute(select(_BATCHES).where(*mine).with_for_update()).one_or_none()
            if row is None:
                return  # another server took over and has finished it
            for file in (output, errors):
                if file is not None:
                    insert_file(connection, file)
            connection.execute(
                update(_BATCHES)
                .where(*mine)
                .values(
                    status=status,
                    times=_text({**json.loads(row.times), f"{status}_at": self.now()}),
                    failed=_BATCHES.c.failed + failed,
                    output_file_id=None if output is None else output.id,
                    error_file_id=None if errors is None else errors.id,
                )
            )
            connection.execute(delete(_LINES).where(_LINES.c.batch_id == batch.id))

        await self._database.write(write)


def _text(value: object) -> str:
    return to_json(value).decode()


def _batch(row: Row[Any]) -> StoredBatch:
    return StoredBatch(
        id=row.id,
        tenant=row.tenant,
        key_id=row.key_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        status=row.status,
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        request=json.loads(row.request),
        model=row.model,
        errors=None if row.errors is None else json.loads(row.errors),
        times=json.loads(row.times),
        total=row.total,
        completed=row.completed,
        failed=row.failed,
        usage={name: getattr(row, name) for name in _USAGE},
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
    )
