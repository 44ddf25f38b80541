"""`/v1/ws` as a part of the server.

Above: `glm serve`. Below: `connection`. Who connects is asked before the handshake is answered; every generation is
admitted, counted and limited on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from glm_crush.errors import AccessError, OverloadedError
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.browser_guard import BrowserGuard
from glm_crush.serving.gateway.gateway import Credentials, Gateway, key_in
from glm_crush.serving.orderly_end import ends_in_order
from glm_crush.serving.part import ServerPart
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.websocket.connection import Connection
from glm_crush.serving.websocket.log_feed import LogFeed

__all__ = ["WebSocketPart"]

_ROUTE = "GET /v1/ws"
_PROTOCOL = "glm-crush.v1"


class WebSocketPart(ServerPart):
    """Generations over WebSockets.

    Args:
        max_generations: of one connection at a time. send_timeout_seconds: see `Connection`.
    """

    def __init__(self, models: ServedModels, *, max_generations: int = 64, send_timeout_seconds: float = 30.0) -> None:
        self._models = models
        self._max_generations = max_generations
        self._send_timeout = send_timeout_seconds
        self._feed = LogFeed()
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Connections end when the generations that run on them have."""
        self._draining.set()

    def socket_routes(self) -> Sequence[BaseRoute]:
        """The one route."""
        return [WebSocketRoute("/v1/ws", self._serve)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The log is kept from the start, so that whoever comes later can hear what was before."""
        with self._feed.listening():
            yield

    async def _serve(self, socket: WebSocket) -> None:
        gateway: Gateway = socket.scope["state"]["gateway"]
        guard: BrowserGuard = socket.scope["state"]["browser_guard"]
        headers = dict(socket.scope["headers"])
        credentials = Credentials(_key(headers), socket.client.host if socket.client else None)
        try:
            admission = await gateway.open(credentials, _ROUTE)
            admission.close(101)
            if admission.grant.key_id is None:
                guard.check(headers)
        except (AccessError, OverloadedError) as error:
            await _refuse(socket, error)
            return
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=_PROTOCOL if _PROTOCOL in offered else None)
        ends_in_order(socket.scope)
        connection = Connection(
            socket,
            self._models,
            gateway,
            credentials,
            self._feed,
            self._draining,
            max_generations=self._max_generations,
            send_timeout_seconds=self._send_timeout,
        )
        await connection.run()


def _key(headers: dict[bytes, bytes]) -> bytes:
    """The key of a handshake; pages, which can send no header of their own, put it among the subprotocols."""
    given = key_in(headers)
    if given:
        return given
    for name in headers.get(b"sec-websocket-protocol", b"").split(b","):
        if name.strip().startswith(b"key."):
            return name.strip().removeprefix(b"key.")
    return b""


async def _refuse(socket: WebSocket, error: Exception) -> None:
    """An HTTP status instead of the handshake."""
    reply = error_reply(error)
    await socket.send_denial_response(JSONResponse(reply.body(), status_code=reply.status, headers=dict(reply.headers)))
