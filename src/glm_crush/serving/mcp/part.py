"""`/mcp`, streamable HTTP, as a part of the server.

Above: `glm serve`. Below: the SDK, imported when the first request comes. Every request stands alone: there are no
sessions to lose, and any of several servers can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route

from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.middleware import Receive, Scope, Send
from glm_crush.serving.part import ServerPart
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

__all__ = ["McpPart"]

_PATH = "/mcp"


class McpPart(ServerPart):
    """The MCP server over HTTP; requests larger than `max_body_bytes` are refused."""

    def __init__(self, models: ServedModels, *, max_body_bytes: int) -> None:
        self._models = models
        self._max_body_bytes = max_body_bytes
        self._caller: InProcessCaller | None = None
        self._manager: StreamableHTTPSessionManager | None = None
        self._starting = asyncio.Lock()
        self._serving: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    def connect(self, caller: InProcessCaller) -> None:
        """Tools call the routes through it."""
        self._caller = caller

    def socket_routes(self) -> Sequence[BaseRoute]:
        """The one path, all its methods."""
        return [Route(_PATH, _Endpoint(self), methods=["GET", "POST", "DELETE"])]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Ends what still runs at the end."""
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._stop.set()
            if self._serving is not None:
                await self._serving

    async def manager(self) -> StreamableHTTPSessionManager:
        """The SDK's request handler, started by the first request."""
        async with self._starting:
            if self._manager is None:
                started: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()
                self._serving = asyncio.create_task(self._serve(started))
                self._manager = await started
            return self._manager

    async def _serve(self, started: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """Hold the SDK's task group open in one task, as it must be."""
        assert self._caller is not None, "the application connects its routes"
        try:
            manager = await asyncio.to_thread(_make_manager, self._models, self._caller, self._max_body_bytes)
        except Exception as error:  # noqa: BLE001 - raised by whoever waits for the manager
            started.set_exception(error)
            return
        async with manager.run():
            started.set_result(manager)
            await self._stop.wait()


class _Endpoint:
    """An ASGI application, which Starlette takes as it is."""

    def __init__(self, part: McpPart) -> None:
        self._part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["glm_crush.route"] = _PATH
        manager = await self._part.manager()
        await manager.handle_request(scope, receive, send)


def _make_manager(models: ServedModels, caller: InProcessCaller, max_body_bytes: int) -> StreamableHTTPSessionManager:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings

    from glm_crush.serving.mcp.backend import InProcessBackend
    from glm_crush.serving.mcp.tools import mcp_server

    return StreamableHTTPSessionManager(
        mcp_server(InProcessBackend(models, caller)),
        stateless=True,
        json_response=True,
        # Names, origins and keys have been checked at the door.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=max_body_bytes,
    )
