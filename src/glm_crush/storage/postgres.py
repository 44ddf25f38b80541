"""PostgreSQL through asyncpg, for several servers that share their rows."""

from __future__ import annotations

from typing import TypeVar

import asyncpg  # noqa: F401 - a missing driver is found here, not at the first connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from glm_crush.errors import StorageError
from glm_crush.storage.database import Database, Work, storage_error

__all__ = ["PostgresDatabase"]

Result = TypeVar("Result")

_CONNECTIONS = 8
_CONNECT_SECONDS = 10


class PostgresDatabase(Database):
    """One database of a PostgreSQL server; connections are made when they are needed and checked before use."""

    def __init__(self, url: URL) -> None:
        super().__init__()
        self._where = f"{url.database} on {url.host or 'the local server'}"
        self._closed = False
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            pool_size=_CONNECTIONS,
            pool_pre_ping=True,  # a server that was restarted costs one retry, not one error
            connect_args={"timeout": _CONNECT_SECONDS},
        )

    async def write(self, work: Work[Result]) -> Result:
        """See `Database.write`."""
        self._check_open()
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except Exception as error:
            raise storage_error(error, self._where) from error

    async def read(self, work: Work[Result]) -> Result:
        """See `Database.read`."""
        self._check_open()
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    return await connection.run_sync(work)
        except Exception as error:
            raise storage_error(error, self._where) from error

    async def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        await self._engine.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"the database {self._where} has been closed")
