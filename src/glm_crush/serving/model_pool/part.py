"""The models' own part of the server: routes for operators, and the end of all models at the end of the server.

Above: `app.py`. Below: `ServedModels` and their pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from glm_crush.serving.model_pool.admin import model_admin_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

__all__ = ["ModelPoolPart"]


class ModelPoolPart(ServerPart):
    """Closes models that are idle while the server runs, and all of them when it ends."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def routes(self) -> Sequence[ApiRoute]:
        """/admin/v1/models."""
        return model_admin_routes(self._models)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Models that were loaded before there was an event loop may be idle for too long as well."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self._models.pool.close_idle()
        try:
            yield
        finally:
            await asyncio.shield(self._models.pool.close())
