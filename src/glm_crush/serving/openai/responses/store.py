"""Responses in the database: each a row with its request, its input items and its object.

Above: the routes and runs. Below: `storage`. A response that is at work is leased to the server that works on it; when
the lease runs out, its server is gone and whoever notices may claim it. A chain of responses lives as long as the
youngest of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from sqlalchemy import (
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
    literal,
    select,
    update,
)

from glm_crush.serving.openai.listing import may_be_id
from glm_crush.serving.openai.responses.items import Item
from glm_crush.storage.database import Database
from glm_crush.storage.schema import Schema, add_column

__all__ = ["SCHEMA", "ResponseStore", "StoredResponse"]

WORKING = ("queued", "in_progress")

_METADATA = MetaData()


def _first_table(metadata: MetaData) -> Table:
    """The table of version 1."""
    return Table(
        "responses",
        metadata,
        Column("id", String(64), primary_key=True),
        Column("tenant", String(200), nullable=False),
        Column("previous_id", String(64)),
        Column("created_at", Float(53), nullable=False),
        Column("expires_at", Float(53), nullable=False),
        Column("status", String(20), nullable=False),
        Column("background", Boolean, nullable=False),
        Column("request", Text, nullable=False),
        Column("input", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("events", Text),
        Column("owner", String(64), nullable=False),
        Column("lease_until", Float(53), nullable=False),
        Column("attempts", Integer, nullable=False),
        Index("responses_by_expiry", "expires_at"),
        Index("responses_by_lease", "status", "lease_until"),
    )


_RESPONSES = _first_table(_METADATA)
_RESPONSES.append_column(Column("key_id", String(200)))


def _m001_responses(connection: Connection) -> None:
    _first_table(MetaData()).create(connection)


def _m002_keys(connection: Connection) -> None:
    add_column(connection, "responses", Column("key_id", String(200)))


SCHEMA = Schema("responses", _METADATA, (_m001_responses, _m002_keys))


@dataclass(frozen=True, kw_only=True)
class StoredResponse:
    """One row.

    Attributes:
        request: the body that created it, with what was chosen for it. input: its own items, without those before it.
        body: the response object. events: those of its stream, encoded, if there was one in the background.
        attempts: how often a server has begun it. key_id: on whose behalf.
    """

    id: str
    tenant: str
    previous_id: str | None
    created_at: float
    status: str
    background: bool
    request: dict[str, Any]
    input: list[Item]
    body: dict[str, Any]
    events: tuple[str, ...] | None = None
    attempts: int = 1
    key_id: str | None = None

    @property
    def is_working(self) -> bool:
        """Whether it has not ended."""
        return self.status in WORKING

    def context(self) -> list[Item]:
        """What the next response builds on."""
        return [*self.input, *self.body["output"]]


class ResponseStore:
    """All responses of a server.

    Args:
        database: with the rows. owner: this server process. ttl_seconds: how long a response is kept.
        lease_seconds: how long work is this server's without being renewed. now: the time.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        ttl_seconds: float,
        lease_seconds: float = 15.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._owner = owner
        self.lease_seconds = lease_seconds
        self._ttl = ttl_seconds
        self.now = now

    async def open(self) -> None:
        """Bring the tables up to date. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def add(self, response: StoredResponse, chain: Sequence[StoredResponse]) -> None:
        """Store a response that begins, leased to this server; those before it live as long as it does."""
        expires_at = response.created_at + self._ttl
        values = {
            "id": response.id,
            "tenant": response.tenant,
            "previous_id": response.previous_id,
            "created_at": response.created_at,
            "expires_at": expires_at,
            "status": response.status,
            "background": response.background,
            "request": _text(response.request),
            "input": _text(response.input),
            "body": _text(response.body),
            "owner": self._owner,
            "lease_until": self.now() + self.lease_seconds,
            "attempts": response.attempts,
            "key_id": response.key_id,
        }
        ids = [ancestor.id for ancestor in chain]

        def write(connection: Connection) -> None:
            connection.execute(insert(_RESPONSES).values(values))
            older = _RESPONSES.c.expires_at < expires_at
            connection.execute(update(_RESPONSES).where(_RESPONSES.c.id.in_(ids), older).values(expires_at=expires_at))

        await self._database.write(write)

    async def find(self, tenant: str, response_id: str) -> StoredResponse | None:
        """One response; None if this tenant has none of that id."""
        if not may_be_id(response_id):
            return None
        rows = await self._rows(select(_RESPONSES).where(self._is_visible(tenant), _RESPONSES.c.id == response_id))
        return rows[0] if rows else None

    async def chain(self, tenant: str, response_id: str) -> list[StoredResponse] | None:
        """A response and all before it, oldest first; None if one of them is not there any more."""
        if not may_be_id(response_id):
            return None
        table = _RESPONSES
        first = select(table.c.id, table.c.previous_id, literal(0).label("depth")).where(
            self._is_visible(tenant), table.c.id == response_id
        )
        steps = first.cte("steps", recursive=True)
        step = select(table.c.id, table.c.previous_id, (steps.c.depth + 1).label("depth")).where(
            self._is_visible(tenant), table.c.id == steps.c.previous_id
        )
        steps = steps.union_all(step)
        rows = await self._rows(select(table).join(steps, table.c.id == steps.c.id).order_by(steps.c.depth.desc()))
        return rows if rows and rows[0].previous_id is None else None

    async def finish(self, response_id: str, body: dict[str, Any], events: Sequence[str] | None = None) -> bool:
        """Store how a response ended; False if it had ended already, or is not this server's any more."""
        mine = (_RESPONSES.c.id == response_id, _RESPONSES.c.owner == self._owner, _RESPONSES.c.status.in_(WORKING))
        values = {"status": body["status"], "body": _text(body), "events": None if events is None else _text(events)}
        return await self._update(mine, values) == 1

    async def cancel(self, tenant: str, response: StoredResponse) -> bool:
        """Say that a response is cancelled; its server sees it when it renews its leases."""
        body = {**response.body, "status": "cancelled"}
        where = (_RESPONSES.c.id == response.id, self._is_visible(tenant), _RESPONSES.c.status.in_(WORKING))
        return await self._update(where, {"status": "cancelled", "body": _text(body)}) == 1

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Remove a response; whether there was one."""
        where = (_RESPONSES.c.id == response_id, self._is_visible(tenant))
        return await self._database.write(lambda c: c.execute(delete(_RESPONSES).where(*where)).rowcount) == 1

    async def renew(self, response_ids: Collection[str]) -> set[str]:
        """Keep what this server works on; which of them are still its to finish."""
        mine = (_RESPONSES.c.id.in_(response_ids), _RESPONSES.c.owner == self._owner, _RESPONSES.c.status.in_(WORKING))

        def renew(connection: Connection) -> set[str]:
            until = self.now() + self.lease_seconds
            connection.execute(update(_RESPONSES).where(*mine).values(lease_until=until))
            return set(connection.scalars(select(_RESPONSES.c.id).where(*mine)))

        return await self._database.write(renew)

    async def release(self, response_ids: Collection[str]) -> None:
        """Let others go on at once with what this server will not finish."""
        mine = (_RESPONSES.c.id.in_(response_ids), _RESPONSES.c.owner == self._owner)
        await self._update(mine, {"lease_until": 0.0})

    async def claim_abandoned(self) -> list[StoredResponse]:
        """Responses whose server is gone, now leased to this one and to no other."""
        abandoned = (_RESPONSES.c.status.in_(WORKING), _RESPONSES.c.lease_until < self.now())

        def claim(connection: Connection) -> list[StoredResponse]:
            rows = connection.execute(select(_RESPONSES).where(*abandoned).with_for_update(skip_locked=True)).all()
            taken = update(_RESPONSES).where(_RESPONSES.c.id.in_([row.id for row in rows]))
            connection.execute(
                taken.values(
                    owner=self._owner,
                    lease_until=self.now() + self.lease_seconds,
                    attempts=_RESPONSES.c.attempts + 1,
                )
            )
            return [_response(row, attempts=row.attempts + 1) for row in rows]

        return await self._database.write(claim)

    async def sweep(self) -> int:
        """Remove what has expired; how many that were."""
        gone = delete(_RESPONSES).where(_RESPONSES.c.expires_at <= self.now())
        return await self._database.write(lambda connection: connection.execute(gone).rowcount)

    def _is_visible(self, tenant: str) -> Any:
        return (_RESPONSES.c.tenant == tenant) & (_RESPONSES.c.expires_at > self.now())

    async def _rows(self, statement: Any) -> list[StoredResponse]:
        return await self._database.read(lambda connection: [_response(row) for row in connection.execute(statement)])

    async def _update(self, where: Sequence[Any], values: dict[str, Any]) -> int:
        statement = update(_RESPONSES).where(*where).values(values)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)


def _text(value: object) -> str:
    return to_json(value).decode()


def _response(row: Row[Any], attempts: int | None = None) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        tenant=row.tenant,
        previous_id=row.previous_id,
        created_at=row.created_at,
        status=row.status,
        background=row.background,
        request=json.loads(row.request),
        input=json.loads(row.input),
        body=json.loads(row.body),
        events=None if row.events is None else tuple(json.loads(row.events)),
        attempts=row.attempts if attempts is None else attempts,
        key_id=row.key_id,
    )
