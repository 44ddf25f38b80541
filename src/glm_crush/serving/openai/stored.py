"""What outlives a restart: files, batches, responses. Their stores are opened with the first request that needs one.

Above: `app.py`. Below: one package for each. SQLAlchemy is imported when a store is opened, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from glm_crush.serving.openai.files.routes import file_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.storage.blobs import BlobStore
from glm_crush.storage.lazy import LazyDatabase

if TYPE_CHECKING:
    from glm_crush.serving.openai.files.store import FileStore

__all__ = ["StoredApis"]


class StoredApis(ServerPart):
    """The APIs over one database."""

    def __init__(self, database: LazyDatabase) -> None:
        self._database = database
        self._blobs = BlobStore(database.folder / "files", max_blob_bytes=database.settings.max_file_bytes)
        self._opening = asyncio.Lock()
        self._files: FileStore | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What goes on beside requests, until the block ends; then the database is closed."""
        try:
            yield
        finally:
            await self._database.close()

    def routes(self) -> list[ApiRoute]:
        """All of them."""
        return file_routes(self.files)

    async def files(self) -> FileStore:
        """The store of files. Raises StorageError."""
        async with self._opening:
            if self._files is None:
                store_module = await asyncio.to_thread(_import_files)
                store = store_module(await self._database.open(), self._blobs)
                await store.open()
                self._files = store
            return self._files


def _import_files() -> type[FileStore]:
    from glm_crush.serving.openai.files.store import FileStore

    return FileStore
