"""What every database does: run a piece of work in a transaction, without blocking the event loop.

Above: the stores. Below: `sqlite` and `postgres`. A piece of work is an ordinary function over a SQLAlchemy
connection, so a store is written once for both. It must not wait for anything but the database: on SQLite all writers
take turns.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from glm_crush.errors import StorageError
from glm_crush.storage.schema import Schema, migrate

__all__ = ["Database", "Work", "storage_error"]

Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class Database(ABC):
    """One SQL database."""

    def __init__(self) -> None:
        self._installed: set[str] = set()
        self._installing = asyncio.Lock()

    async def install(self, schema: Schema) -> None:
        """Bring the tables of one subsystem to the version of this program; the second call costs nothing.

        Raises:
            StorageError: the tables are newer than this program, or a migration failed (nothing has changed then).
        """
        async with self._installing:
            if schema.name not in self._installed:
                await self.write(partial(migrate, schema=schema))
                self._installed.add(schema.name)

    @abstractmethod
    async def write(self, work: Work[Result]) -> Result:
        """Run `work` in a transaction; when this returns, what it wrote is durable.

        Work that raises changes nothing, and its exception is raised here.

        Raises:
            StorageError: the database failed; nothing has changed.
            IntegrityError: a constraint was violated; nothing has changed.
        """

    @abstractmethod
    async def read(self, work: Work[Result]) -> Result:
        """Run `work` on one consistent state; it cannot write.

        Raises:
            StorageError: the database failed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was asked for, then close. What is asked for later is refused with StorageError."""


def storage_error(error: BaseException, where: str) -> BaseException:
    """The exception for a caller: the database's own failures without their statements, all others as they are."""
    if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError):
        reason = getattr(error, "orig", None) or error
        return StorageError(f"the database {where} failed: {reason}")
    if isinstance(error, OSError):
        return StorageError(f"the database {where} cannot be reached: {error}; is it running?")
    return error
