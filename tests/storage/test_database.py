"""What every database promises: durable when acknowledged, all or nothing, readers never write."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, func, insert, select
from sqlalchemy.exc import IntegrityError

from glm_crush.config import StorageSettings
from glm_crush.errors import ConfigError, StorageError
from glm_crush.storage.connect import connect
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.storage.schema import Schema
from tests.storage.databases import OpenDatabase

METADATA = MetaData()
NUMBERS = Table("numbers", METADATA, Column("number", Integer, primary_key=True))
SCHEMA = Schema("numbers", METADATA, (METADATA.create_all,))


def add(number: int):
    return lambda connection: connection.execute(insert(NUMBERS).values(number=number))


def count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(NUMBERS)) or 0


@pytest.mark.requirement("S9")
def test_what_was_acknowledged_is_there_when_the_database_is_opened_again(open_database: OpenDatabase) -> None:
    async def scenario() -> int:
        async with open_database() as database:
            await database.install(SCHEMA)
            await asyncio.gather(*(database.write(add(number)) for number in range(50)))
        async with open_database() as database:
            return await database.read(count)

    assert asyncio.run(scenario()) == 50


def test_work_that_fails_changes_nothing_and_hurts_no_other(open_database: OpenDatabase) -> None:
    def broken(connection: Connection) -> None:
        add(7)(connection)
        raise ValueError("no")

    async def scenario() -> tuple[list[object], int]:
        async with open_database() as database:
            await database.install(SCHEMA)
            outcomes = await asyncio.gather(
                *(database.write(work) for work in (add(1), broken, add(2), add(1))), return_exceptions=True
            )
            return outcomes, await database.read(count)

    outcomes, number = asyncio.run(scenario())
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[3], IntegrityError) or isinstance(outcomes[0], IntegrityError)
    assert number == 2


def test_a_reader_cannot_write(open_database: OpenDatabase) -> None:
    async def scenario() -> None:
        async with open_database() as database:
            await database.install(SCHEMA)
            with pytest.raises(StorageError, match=r"(?i)read.?only"):
                await database.read(add(1))

    asyncio.run(scenario())


def test_a_closed_database_refuses_at_once(open_database: OpenDatabase) -> None:
    async def scenario() -> None:
        async with open_database() as database:
            pass
        with pytest.raises(StorageError, match="has been closed"):
            await database.write(count)
        with pytest.raises(StorageError, match="has been closed"):
            await database.read(count)

    asyncio.run(scenario())


def test_a_failing_statement_is_a_storage_error_without_the_statement(open_database: OpenDatabase) -> None:
    async def scenario() -> str:
        async with open_database() as database:
            with pytest.raises(StorageError) as caught:
                await database.write(lambda connection: connection.exec_driver_sql("SELECT secret FROM nowhere"))
            return str(caught.value)

    message = asyncio.run(scenario())
    assert "nowhere" in message
    assert "SELECT" not in message


def test_all_writes_that_wait_share_one_commit(tmp_path: Path) -> None:
    """SQLite: while the first is at work the others queue, and are then flushed to disk together."""
    held, release = threading.Event(), threading.Event()
    commits: list[int] = []

    def hold(connection: Connection) -> None:
        held.set()
        assert release.wait(20)

    async def scenario() -> None:
        database = connect(f"sqlite:///{tmp_path / 'rows.db'}", tmp_path)
        await database.install(SCHEMA)
        commit = database._commit  # type: ignore[attr-defined]
        database._commit = lambda group: (commits.append(len(group)), commit(group))  # type: ignore[attr-defined]
        first = asyncio.create_task(database.write(hold))
        await asyncio.to_thread(held.wait, 20)
        others = [asyncio.create_task(database.write(add(number))) for number in range(20)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, *others)
        assert await database.read(count) == 20
        await database.close()

    asyncio.run(scenario())
    assert commits == [1, 20]


def test_a_write_nobody_waits_for_any_more_is_not_begun(tmp_path: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        held.set()
        assert release.wait(20)

    async def scenario() -> int:
        database = connect(None, tmp_path)
        await database.install(SCHEMA)
        first = asyncio.create_task(database.write(hold))
        await asyncio.to_thread(held.wait, 20)
        second = asyncio.create_task(database.write(add(1)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        await first
        number = await database.read(count)
        await database.close()
        return number

    assert asyncio.run(scenario()) == 0


def test_the_embedded_database_is_for_its_owner_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        await connect(None, tmp_path / "data").close()

    asyncio.run(scenario())
    assert (tmp_path / "data" / "glm.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("url", ["mysql://a/b", "nonsense", "sqlite://", "postgresql:"])
def test_a_url_that_names_no_database_is_refused_with_the_remedy(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give postgresql://user:password@host/name"):
        connect(url, tmp_path)


def test_a_url_of_no_known_kind_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of the kind 'mysql'"):
        LazyDatabase(StorageSettings(url="mysql://a/b"), tmp_path)


def test_the_database_is_made_when_it_is_first_needed_and_opened_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        lazy = LazyDatabase(StorageSettings(), tmp_path)
        assert not lazy.has_rows
        assert not (tmp_path / "data").exists()
        assert await lazy.open() is await lazy.open()
        assert lazy.has_rows
        await lazy.close()
        await lazy.close()
        with pytest.raises(StorageError, match="has been closed"):
            await lazy.open()

    asyncio.run(scenario())


def test_serving_imports_no_database_before_it_is_needed() -> None:
    """SQLAlchemy takes as long to import as everything else together."""
    program = "import sys, glm_crush.serving.app; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_server_that_is_not_there_is_a_storage_error_without_the_password(tmp_path: Path) -> None:
    async def scenario() -> str:
        database = connect("postgresql://me:secret@127.0.0.1:1/rows", tmp_path)
        with pytest.raises(StorageError) as caught:
            await database.write(count)
        await database.close()
        return str(caught.value)

    message = asyncio.run(scenario())
    assert "rows on 127.0.0.1" in message
    assert "secret" not in message


WRITER = """
import asyncio, pathlib, sys
from sqlalchemy import text
from glm_crush.storage.connect import connect

async def main():
    database = connect(None, pathlib.Path(sys.argv[1]))
    await database.write(lambda c: c.execute(text("CREATE TABLE numbers (number INTEGER)")))
    for number in range(10_000_000):
        await database.write(lambda c: c.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number}))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.requirement("S9")
def test_a_killed_process_loses_nothing_it_had_acknowledged(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.kill()
        last = [int(line) for line in process.stdout if line.strip()][-1:] or [19]

    async def scenario() -> list[int]:
        database = connect(None, tmp_path)
        numbers = await database.read(lambda c: [row[0] for row in c.exec_driver_sql("SELECT number FROM numbers")])
        await database.close()
        return numbers

    numbers = asyncio.run(scenario())
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last[0]
