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
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.openai.batches.routes import OpenBatches, batch_routes
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

_FIRST_UPKEEP_SECONDS = 1.0  # opening a database takes as long as starting to serve: that comes first

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
        self._batches: OpenBatches | None = None
        self._caller: InProcessCaller | None = None
        self._owner = uuid.uuid4().hex

    def connect(self, caller: InProcessCaller) -> None:
        """Give batches the application that they call; known only when all routes are."""
        self._caller = caller

    def routes(self) -> list[ApiRoute]:
        """All of them."""
        return [
            *file_routes(self.files),
            *batch_routes(self.batches),
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
            if self._batches is not None:
                await self._batches.runner.close()
            if self._responses is not None:
                await self._responses.close()

    async def files(self) -> FileStore:
        """The store of files. Raises StorageError."""
        async with self._opening:
            if self._files is None:
                database = await self._database.open()
                from glm_crush.serving.openai.files.store import FileStore

                store = FileStore(database, self._blobs, max_total_bytes=self._database.settings.max_total_bytes)
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

                settings = self._database.settings
                store = ResponseStore(
                    database,
                    owner=self._owner,
                    ttl_seconds=settings.response_ttl_seconds,
                    lease_seconds=settings.lease_seconds,
                )
                await store.open()
                admit = None if self._caller is None else self._caller.admit
                service = ResponseService(self._models, store, admit)
                await service.recover()
                self._responses = service
            return self._responses

    async def batches(self) -> OpenBatches:
        """Batches with their runner; unfinished ones go on. Raises StorageError."""
        files = await self.files()
        async with self._opening:
            if self._batches is None:
                assert self._caller is not None
                database = await self._database.open()
                from glm_crush.serving.openai.batches.runner import BatchRunner
                from glm_crush.serving.openai.batches.store import BatchStore

                store = BatchStore(database, owner=self._owner, lease_seconds=self._database.settings.lease_seconds)
                await store.open()
                runner = BatchRunner(
                    store,
                    files,
                    self._caller,
                    num_clients=self._models.num_all_users,
                    concurrency=self._database.settings.batch_concurrency,
                )
                runner.wake()
                self._batches = OpenBatches(store, files, runner, self._caller)
            return self._batches

    async def upkeep(self) -> None:
        """Take over what crashed servers left, and remove what has expired. Raises StorageError."""
        (await self.batches()).runner.wake()
        await (await self.responses()).recover()
        await (await self.responses()).store.sweep()
        await (await self.files()).sweep()

    async def _look_after(self) -> None:
        """Nothing is opened for it: without a database there is nothing to look after."""
        await asyncio.sleep(_FIRST_UPKEEP_SECONDS)
        while True:
            if self._database.has_rows:
                try:
                    await self.upkeep()
                except StorageError as error:
                    _log.error("stored objects could not be looked after", exc_info=error)
            await asyncio.sleep(2 * self._database.settings.lease_seconds)
