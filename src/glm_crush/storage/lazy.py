"""The database that is opened when it is first needed, so that nobody waits for it who does not need it.

Above: the composition root, which makes one and hands it to everybody. Below: `database`, imported on first use.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from glm_crush.config import StorageSettings
from glm_crush.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from glm_crush.storage.database import Database

__all__ = ["LazyDatabase"]


class LazyDatabase:
    """Opens the configured database once, for one event loop.

    Args:
        settings: which database.
        home: GLM_HOME; the embedded database and all blobs are in its folder `data`.

    Raises:
        ConfigError: the URL names no database that can be used here: known before anything is served.
    """

    def __init__(self, settings: StorageSettings, home: Path) -> None:
        _check_url(settings.url)
        self.settings = settings
        self.folder = home / "data"
        self._lock = asyncio.Lock()
        self._database: Database | None = None
        self._closed = False

    @property
    def has_rows(self) -> bool:
        """Whether there is something to recover: a server of its own, or an embedded database made earlier."""
        return self.settings.url is not None or (self.folder / "glm.db").exists()

    async def open(self) -> Database:
        """The open database; the first call imports the engine in a thread.

        Raises:
            ConfigError: the URL is malformed or its driver is not installed.
            StorageError: it cannot be opened, or has been closed.
        """
        async with self._lock:
            if self._closed:
                raise StorageError("the database has been closed")
            if self._database is None:
                self._database = await asyncio.to_thread(_connect, self.settings.url, self.folder)
            return self._database

    async def close(self) -> None:
        """Finish what was asked for and close; a second call does nothing."""
        async with self._lock:
            self._closed = True
            database, self._database = self._database, None
        if database is not None:
            await database.close()


def _check_url(url: str | None) -> None:
    """What can be said of a URL without importing anything."""
    kind = (url or "sqlite:").partition(":")[0].partition("+")[0]
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise ConfigError(
            f"storage.url is of the kind {kind[:40]!r}; give postgresql://user:password@host/name, sqlite:///path, or "
            "leave it unset"
        )
    if kind != "sqlite" and find_spec("asyncpg") is None:
        raise ConfigError("storage.url names a PostgreSQL server; pip install 'glm-crush[postgres]' for its driver")


def _connect(url: str | None, folder: Path) -> Database:
    from glm_crush.storage.connect import connect

    return connect(url, folder)
