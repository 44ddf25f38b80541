"""The audit log and the usage sums as rows.

Above: `recorder.py`, which writes, and `admin.py`, which reads. Below: `storage.database`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from glm_crush.serving.gateway.ledger import AuditEntry, UsageCell, UsageSum
from glm_crush.serving.gateway.tables import AUDIT, SCHEMA, USAGE
from glm_crush.storage.database import Database

__all__ = ["AccountStore", "Spent"]

_SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "money")
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Spent:
    """What keys had used by day, for budgets: (key, day) to (tokens, money in millionths)."""

    by_day: Mapping[tuple[str, str], tuple[int, int]]

    def amount(self, key_id: str, name: str, window: str) -> int:
        """The level of a budget such as money_per_month in a window such as 2026-11."""
        column = 1 if name.startswith("money") else 0
        return sum(
            amounts[column] for (key, day), amounts in self.by_day.items() if key == key_id and day.startswith(window)
        )


class AccountStore:
    """The rows of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> None:
        """Make or renew the tables; a second call costs nothing. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def write(self, entries: Sequence[AuditEntry], usage: Mapping[UsageCell, UsageSum]) -> None:
        """Append entries and add to sums, all or nothing. Raises StorageError."""

        def work(connection: Connection) -> None:
            rows = [_audit_row(entry) for entry in entries]
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                connection.execute(insert(AUDIT), rows[start : start + _ROWS_AT_ONCE])
            for cell, total in usage.items():
                _add_usage(connection, cell, total)

        await self._database.write(work)

    async def forget_before(self, time: float) -> int:
        """Remove entries of the audit log that are older; returns how many."""
        statement = delete(AUDIT).where(AUDIT.c.time < time)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def audit(
        self, *, limit: int = 100, before: int | None = None, key_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Entries, newest first; `before` is the id of the last one of the page before."""
        statement = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(AUDIT.c.id < before)
        if key_id is not None:
            statement = statement.where(AUDIT.c.key_id == key_id)
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [dict(row) for row in rows]

    async def usage(
        self, *, key_id: str | None = None, first_day: str = "", last_day: str = "9999"
    ) -> list[dict[str, Any]]:
        """Sums by key, model and day; the newest day first."""
        statement = select(USAGE).where(USAGE.c.day >= first_day, USAGE.c.day <= last_day)
        if key_id is not None:
            statement = statement.where(USAGE.c.key_id == key_id)
        statement = statement.order_by(USAGE.c.day.desc(), USAGE.c.key_id, USAGE.c.model)
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [dict(row) for row in rows]

    async def spent(self, month: str) -> Spent:
        """What every key has used in a month."""
        tokens = func.sum(USAGE.c.prompt_tokens + USAGE.c.completion_tokens)
        statement = (
            select(USAGE.c.key_id, USAGE.c.day, tokens, func.sum(USAGE.c.money))
            .where(USAGE.c.day.like(f"{month}%"))
            .group_by(USAGE.c.key_id, USAGE.c.day)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return Spent({(key, day): (int(used), int(money)) for key, day, used, money in rows})


def _audit_row(entry: AuditEntry) -> dict[str, Any]:
    row = entry._asdict()
    for name in ("route", "model", "tenant", "address", "request_id"):
        width = AUDIT.c[name].type.length  # type: ignore[attr-defined]
        row[name] = None if row[name] is None else row[name][:width]
    return row


def _add_usage(connection: Connection, cell: UsageCell, total: UsageSum) -> None:
    amounts = {name: getattr(total, name) for name in _SUMS}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(USAGE).values(**cell._asdict(), **amounts)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key_id", "model", "day"],
            set_={name: USAGE.c[name] + statement.excluded[name] for name in _SUMS},
        )
    )
