"""What outlives a restart: files, batches, responses. Their stores are opened with the first request that needs one.

Above: `app.py`. Below: one package for each. SQLAlchemy is imported when a store is opened, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from glm_crush.config import ApiSettings
from glm_crush.errors import StorageError
from glm_crush.serving.openai.files.routes import file_routes
from glm_crush.serving.openai.responses.routes import response_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.blobs import BlobStore
from glm_crush.storage.lazy import LazyDatabase

if TYPE_CHECKING:
    from glm_crush.serving.openai.files.store import FileStore
    from glm_crush.serving.openai.responses.service import ResponseService

__all__ = ["StoredApis"]

_UPKEEP_SECONDS = 30.0

_log = logging.getLogger("glm_crush.serving")


class StoredApis(ServerPart):
    """The APIs over one database."""

    def __init__(self, models: ServedModels, database: LazyDatabase, settings: ApiSettings) -> None:
        self._models = models
        self._database = database
        self._ping_interval = settings.ping_interval_seconds
        self._blobs = BlobStore(database.folder / "files", max_blob_bytes=database.settings.max_file_bytes)
        self._opening = asyncio.Lock()
        self._files: FileStore | None = None
        self._responses: ResponseService | None = None

    def routes(self) -> list[ApiRoute]:
        """All of them."""
        return [
            *file_routes(self.files),
            *response_routes(self.responses, ping_interval_seconds=self._ping_interval),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after what is stored until the block ends; then stop what runs in the background."""
        upkeep = asyncio.create_task(self._look_after())
        try:
            yield
        finally:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            if self._responses is not None:
                await self._responses.close()

    async def files(self) -> FileStore:
        """The store of files. Raises StorageError."""
        async with self._opening:
            if self._files is None:
                database = await self._database.open()
                from glm_crush.serving.openai.files.store import FileStore

                store = FileStore(database, self._blobs)
                await store.open()
                self._files = store
            return self._files

    async def responses(self) -> ResponseService:
        """The service of responses; what a server before left behind is taken over first. Raises StorageError."""
        async with self._opening:
            if self._responses is None:
                database = await self._database.open()
                from glm_crush.serving.openai.responses.service import ResponseService
                from glm_crush.serving.openai.responses.store import ResponseStore

                ttl = self._database.settings.response_ttl_seconds
                store = ResponseStore(database, owner=uuid.uuid4().hex, ttl_seconds=ttl)
                await store.open()
                service = ResponseService(self._models, store)
                await service.recover()
                self._responses = service
            return self._responses

    async def upkeep(self) -> None:
        """Take over what a crashed server left, and remove what has expired. Raises StorageError."""
        await (await self.responses()).recover()
        await (await self.responses()).store.sweep()
        await (await self.files()).sweep()

    async def _look_after(self) -> None:
        """Nothing is opened for it: without a database there is nothing to look after."""
        while True:
            if self._database.has_rows:
                try:
                    await self.upkeep()
                except StorageError as error:
                    _log.error("stored objects could not be looked after", exc_info=error)
            await asyncio.sleep(_UPKEEP_SECONDS)
