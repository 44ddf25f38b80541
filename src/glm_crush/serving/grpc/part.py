"""gRPC as a part of the server, on a port of its own.

Above: `glm serve`. Below: `server`, which is imported only where a port is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glm_crush.config import ApiSettings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.part import ServerPart
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from glm_crush.serving.gateway.gateway import Gateway
    from glm_crush.serving.grpc.server import GrpcServer

__all__ = ["GrpcPart"]


class GrpcPart(ServerPart):
    """The gRPC listener.

    Args:
        port: 0 = any free one. on_ready: is told the port once calls are taken.
    """

    def __init__(
        self,
        models: ServedModels,
        settings: ApiSettings,
        gateway_settings: GatewaySettings,
        port: int,
        *,
        on_ready: Callable[[int], None] | None = None,
    ) -> None:
        self._models = models
        self._settings = settings
        self._gateway_settings = gateway_settings
        self._port = port
        self._on_ready = on_ready
        self._gateway: Gateway | None = None
        self._draining = asyncio.Event()

    def attach(self, gateway: Gateway) -> None:
        """Calls are admitted by it."""
        self._gateway = gateway

    def drain(self) -> None:
        """Calls that run may end, at the same time as those by HTTP."""
        self._draining.set()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listens; running calls may finish when stopping."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        assert self._gateway is not None, "the application attaches its gateway"
        try:
            from glm_crush.serving.grpc.server import GrpcServer
        except ImportError as error:
            raise ConfigError(f"api.grpc_port is set and gRPC cannot be used: {error}") from error
        host = self._settings.host.strip("[]")
        address = f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"
        server = GrpcServer(
            self._models,
            self._gateway,
            address,
            max_message_bytes=self._settings.max_body_bytes,
            certificate=await asyncio.to_thread(_certificate, self._gateway_settings),
        )
        await server.start()
        if self._on_ready is not None:
            self._on_ready(server.port)
        leaving = asyncio.create_task(self._leave(server))
        try:
            yield
        finally:
            self._draining.set()
            await leaving

    async def _leave(self, server: GrpcServer) -> None:
        await self._draining.wait()
        await server.stop(self._settings.shutdown_timeout_seconds)


def _certificate(settings: GatewaySettings) -> tuple[bytes, bytes] | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes()
