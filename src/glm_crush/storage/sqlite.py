"""SQLite in WAL mode: one thread writes, with one disk flush for all that waits; readers never wait for it.

A write is acknowledged after its commit, and a commit is flushed to disk (synchronous=FULL): neither a killed process
nor a power cut takes back what a client was told.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from glm_crush.errors import StorageError
from glm_crush.storage.database import Database, Work, storage_error

__all__ = ["SqliteDatabase"]

Result = TypeVar("Result")

_READERS = 4
_LARGEST_GROUP = 256
_BUSY_MILLISECONDS = 10_000  # another process may write the same file


@dataclass(frozen=True)
class _Job:
    work: Work[Any]
    future: Future[Any]


class SqliteDatabase(Database):
    """One file, made with its folder if it is not there."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError when the file cannot be opened."""
        super().__init__()
        self._where = str(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise StorageError(f"the database {path} cannot be made: {error}") from error
        self._write_engine = _engine(path, writes=True)
        self._read_engine = _engine(path, writes=False)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="glm-sql-read")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()  # guards the next: no job is put behind the end mark
        self._closed = False
        try:
            self._connection = self._write_engine.connect()
        except Exception as error:
            raise storage_error(error, self._where) from error
        self._writer = threading.Thread(target=self._run, name="glm-sql-write", daemon=True)
        self._writer.start()

    async def write(self, work: Work[Result]) -> Result:
        """See `Database.write`. A caller that gives up before its turn comes has written nothing."""
        job = _Job(work, Future())
        with self._closing:
            if self._closed:
                raise StorageError(f"the database {self._where} has been closed")
            self._jobs.put(job)
        result: Result = await asyncio.wrap_future(job.future)
        return result

    async def read(self, work: Work[Result]) -> Result:
        """See `Database.read`."""
        if self._closed:
            raise StorageError(f"the database {self._where} has been closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def close(self) -> None:
        """See `Database.close`."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._read_engine.dispose()
        self._write_engine.dispose()

    def _read(self, work: Work[Result]) -> Result:
        try:
            with self._read_engine.connect() as connection, connection.begin():
                return work(connection)
        except Exception as error:
            raise storage_error(error, self._where) from error

    def _run(self) -> None:
        """The writer's thread."""
        with self._connection:
            while True:
                group = [self._jobs.get()]
                while len(group) < _LARGEST_GROUP and group[-1] is not None:
                    try:
                        group.append(self._jobs.get_nowait())
                    except queue.Empty:
                        break
                jobs = [job for job in group if job is not None]
                if jobs:
                    self._commit(jobs)
                if len(jobs) < len(group):
                    return

    def _commit(self, group: Sequence[_Job]) -> None:
        """Run a group in one transaction; then tell everybody."""
        running = [job for job in group if job.future.set_running_or_notify_cancel()]
        if not running:
            return
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with self._connection.begin():
                outcomes = [_attempt(self._connection, job.work) for job in running]
        except Exception as error:  # noqa: BLE001 - told to every writer: none of their work is durable
            outcomes = [(None, error)] * len(running)
        for job, (result, failure) in zip(running, outcomes, strict=True):
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(storage_error(failure, self._where))


def _attempt(connection: Connection, work: Work[Any]) -> tuple[Any, BaseException | None]:
    """The result of one piece of work, or its exception with everything it did taken back."""
    try:
        with connection.begin_nested():
            return work(connection), None
    except Exception as error:  # noqa: BLE001 - raised where the work was asked for
        return None, error


def _engine(path: Path, *, writes: bool) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=1 if writes else _READERS)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if not writes:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: to upgrade later fails when another process wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
