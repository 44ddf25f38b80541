"""Runs the application: binds the socket, loads the model, serves until told to stop.

Above: `glm serve`. Below: `app.py` and uvicorn. The socket is bound before the model is loaded, so that a taken port is
an error at once.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glm_crush.config import ApiSettings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from glm_crush.serving.reloading.reloading import Reloading
    from glm_crush.serving.stopping import Stopping

__all__ = ["bind", "run_server", "server_url"]

_SWITCH_SECONDS = 0.0005


@contextmanager
def bind(settings: ApiSettings, port: int | None = None) -> Iterator[socket.socket]:
    """A bound socket, closed at the end; at the settings' port unless another is given.

    Raises:
        ConfigError: the address does not exist here or the port is taken.
    """
    port = settings.port if port is None else port
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {settings.host} port {port}: {error}; "
                "stop what listens there or choose another with --port (0 = any free one)"
            ) from error
        yield bound


def server_url(bound: socket.socket, *, secure: bool = False) -> str:
    """Where clients on this machine reach it."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run_server(
    app: Starlette,
    bound: socket.socket,
    settings: ApiSettings,
    gateway: GatewaySettings | None = None,
    *,
    on_ready: Callable[[str], None],
    also: Sequence[socket.socket] = (),
    reloading: Reloading | None = None,
    stopping: Stopping | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests may finish within the shutdown timeout.

    SIGHUP asks `reloading` to read the settings again; `stopping` stops as the signals do. `on_ready` is told the URL
    once requests are taken. The same routes are served at `also`.

    Raises:
        ConfigError: see `HttpServer`.
    """
    from glm_crush.serving.http_server import HttpServer

    limits = gateway or GatewaySettings()
    url = server_url(bound, secure=limits.tls_cert is not None)
    server = HttpServer(
        app, [bound, *also], settings, limits, on_ready=lambda: on_ready(url), reloading=reloading, stopping=stopping
    )
    with _quick_thread_switches():
        server.run()


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
