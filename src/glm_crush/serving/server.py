"""Runs the application: binds the socket, loads the model, serves until told to stop.

Above: `glm serve`. Below: `app.py` and uvicorn. The socket is bound before the model is loaded, so that a taken port is
an error at once.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glm_crush.config import ApiSettings
from glm_crush.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

__all__ = ["bind", "check_exposure", "run_server", "server_url"]

_BACKLOG = 2048
_SWITCH_SECONDS = 0.0005


def check_exposure(settings: ApiSettings) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        ConfigError: the host is not loopback and there is no key.
    """
    if settings.key is None and not _is_loopback(settings.host):
        raise ConfigError(
            f"{settings.host} is reachable from other machines and no key is set; "
            "give --api-key KEY (or GLM_API_KEY), or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def bind(settings: ApiSettings) -> Iterator[socket.socket]:
    """A bound socket, closed at the end.

    Raises:
        ConfigError: the address does not exist here or the port is taken.
    """
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, settings.port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {settings.host} port {settings.port}: {error}; "
                "stop what listens there or choose another with --port (0 = any free one)"
            ) from error
        yield bound


def server_url(bound: socket.socket) -> str:
    """Where clients on this machine reach it."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: Starlette, bound: socket.socket, settings: ApiSettings, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; running requests may finish within the shutdown timeout.

    `on_ready` is told the URL once requests are taken.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        log_config=None,
        log_level="warning",
        access_log=False,  # our own line carries the request id
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_seconds)),
        server_header=False,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready(server_url(bound))

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's, but a signal that led to an orderly stop is not raised again: the exit code is 0."""
            handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    with _quick_thread_switches():
        Server(config).run(sockets=[bound])


@contextmanager
def _quick_thread_switches() -> Iterator[None]:
    """Let a thread that waits for the interpreter ask for it after half a millisecond instead of five.

    The engine's thread comes back from every native call while the event loop may be busy with other clients: five
    milliseconds of waiting are longer than a step of a small model.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
