"""uvicorn's server with our protocol, our signals and a certificate that can be renewed.

Above: `server.py`. Below: uvicorn, `gateway.guarded_protocol`, `gateway.tls`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from glm_crush.config import ApiSettings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.guarded_protocol import guarded_protocol
from glm_crush.serving.gateway.tls import Certificate
from glm_crush.serving.reloading.reloading import Reloading
from glm_crush.serving.stopping import Stopping

__all__ = ["HttpServer"]

_BACKLOG = 2048


class HttpServer(uvicorn.Server):
    """Serves one application on bound sockets.

    Args:
        app: what answers.
        sockets: where it listens.
        settings, gateway: times, sizes, certificate.
        on_ready: called once requests are taken.
        stopping: how administrators end it.
        reloading: what SIGHUP asks to read the settings again; None = the signal ends the server, as is its default.

    Raises:
        ConfigError: the certificate cannot be used, or so many files may not be open.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        settings: ApiSettings,
        gateway: GatewaySettings,
        *,
        on_ready: Callable[[], None],
        reloading: Reloading | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        self._sockets = sockets
        self._on_ready = on_ready
        self._header_seconds = gateway.header_timeout_seconds
        self._certificate = Certificate.of(gateway)
        self._reloading = reloading
        if stopping is not None:
            stopping.stop_with(self._begin_to_stop)
        if reloading is not None and self._certificate is not None:
            reloading.add(self._certificate.live_change())
        self._protocol_class = guarded_protocol(gateway)
        super().__init__(
            uvicorn.Config(
                app,
                http=self._protocol_class,
                loop="uvloop",
                ws=asyncio.Protocol,  # there are WebSockets; the guarded protocol puts ours in its place
                ws_max_size=settings.max_body_bytes,
                ws_per_message_deflate=False,  # tokens are short, and their callers are near
                log_config=None,
                log_level="warning",
                access_log=False,  # our own line carries the request id
                timeout_keep_alive=gateway.idle_timeout_seconds,  # type: ignore[arg-type]  # seconds, whole or not
                timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_seconds)),
                proxy_headers=gateway.trusted_proxies is not None,
                forwarded_allow_ips=gateway.trusted_proxies or "",
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own listener has no limit for the time of a TLS handshake."""
        assert sockets is None, "the sockets are given to the constructor"
        await super().startup([])
        if not self.started:
            return
        loop = asyncio.get_running_loop()
        context = None if self._certificate is None else self._certificate.context
        for bound in self._sockets:
            listener = await loop.create_server(
                self._protocol,
                sock=bound,
                ssl=context,
                ssl_handshake_timeout=None if context is None else self._header_seconds,
                backlog=_BACKLOG,
            )
            self.servers.append(listener)
        if self._reloading is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._reloading.begin)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the application to take nothing new, then wait for what runs, as uvicorn does."""
        drain = self.lifespan.state.get("drain")
        if drain is not None:
            drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that led to an orderly stop is not raised again: the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _begin_to_stop(self) -> None:
        self.should_exit = True

    def _protocol(self) -> asyncio.Protocol:
        return self._protocol_class(self.config, self.server_state, self.lifespan.state)
