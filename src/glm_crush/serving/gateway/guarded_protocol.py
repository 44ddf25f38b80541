"""HTTP/1.1 as uvicorn speaks it, with limits on what a client may cost before its request is even understood.

Above: `http_server.py`. Below: uvicorn's protocol over httptools, which limits neither the size of headers nor the time
that anything takes. A connection has one deadline at a time: for the headers of a request, for its body, for the next
request; and beside it one for what the client has to read. Nothing here knows what a request asks for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.connections import Connections, connection_limit

__all__ = ["ConnectionLimits", "guarded_protocol"]

_SLOWEST_BYTES_PER_SECOND = 1000
_LINGER_SECONDS = 5.0  # for what a client still sends of a body that was refused


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one connection may cost; see `GatewaySettings`."""

    max_headers: int
    max_header_bytes: int
    header_seconds: float
    body_seconds: float
    write_seconds: float

    @classmethod
    def of(cls, settings: GatewaySettings) -> ConnectionLimits:
        """The part of the settings that a connection needs."""
        return cls(
            max_headers=settings.max_headers,
            max_header_bytes=settings.max_header_bytes,
            header_seconds=settings.header_timeout_seconds,
            body_seconds=settings.body_timeout_seconds,
            write_seconds=settings.write_timeout_seconds,
        )


def guarded_protocol(settings: GatewaySettings) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn: one set of connections for all instances that it makes.

    Raises:
        ConfigError: more connections are wanted than files may be open.
    """
    shared = Connections(connection_limit(settings.max_connections))
    of_settings = ConnectionLimits.of(settings)

    class Guarded(GuardedProtocol):
        limits = of_settings
        all_connections = shared

    return Guarded


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        limits: of this connection. all_connections: it is one of these.
    """

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None before the first request
    limits: ConnectionLimits
    all_connections: Connections

    _deadline: asyncio.TimerHandle | None = None
    _flush_deadline: asyncio.TimerHandle | None = None
    _headers_complete = True  # of the request being read; True between requests
    _message_complete = True
    _header_bytes = 0
    _body_bytes = 0
    _body_started = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in if there is room, and wait for the first request for so long."""
        super().connection_made(transport)
        if not self.all_connections.add(self):
            self._refuse(
                503, "all connections of this server are busy; try again", code="too_many_connections", retry_after=1
            )
            return
        self._expect(self.limits.header_seconds, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget_deadline()
        self._flushed()
        self.all_connections.remove(self)
        super().connection_lost(exc)

    def evict(self) -> None:
        """See `Connections`."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to no complete set of headers yet."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._headers_complete:
            self._header_bytes += len(data)  # also what the parser holds of a header that does not end
            if self._header_bytes > self.limits.max_header_bytes:
                self._refuse(431, self._too_many_bytes(), code="headers_too_large")
        elif not self._message_complete:
            self._extend_body(len(data))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._headers_complete = self._message_complete = False
        self._header_bytes = 0
        self._expect(self.limits.header_seconds, self._headers_are_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count headers, and trailers with them. White space around a value is no part of it (RFC 9110, 5.5)."""
        super().on_header(name, value.strip(b" \t"))
        self._header_bytes += len(name) + len(value) + 4
        if len(self.headers) > self.limits.max_headers:
            self._stop_parsing(f"there are more than {self.limits.max_headers} headers; send fewer")
        if self._header_bytes + len(self.url) > self.limits.max_header_bytes:
            self._stop_parsing(self._too_many_bytes())

    def on_headers_complete(self) -> None:
        """What is asked is known; the body has a deadline of its own."""
        self._headers_complete = True
        self._body_bytes, self._body_started = 0, self.loop.time()
        self._expect(self.limits.body_seconds, self._body_is_late)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has been read whole: from here the server is the slow one, and the connection counts as busy."""
        self._message_complete = True
        self._forget_deadline()
        super().on_message_complete()
        if self._is_answered():
            self._await_next()
        else:
            self.all_connections.set_busy(self)

    def on_response_complete(self) -> None:
        """Answered: idle again, unless the client still sends what was refused."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._must_flush()
        elif self._message_complete:
            self._await_next()
        else:
            self._expect(_LINGER_SECONDS, self._close)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        self._close()

    def pause_writing(self) -> None:
        """The client does not read what there is."""
        super().pause_writing()
        self._must_flush()

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._flushed()

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over; the place is taken until it ends, and what it sends must be read as well."""
        self._forget_deadline()
        self._flushed()
        self.all_connections.set_busy(self)
        release = partial(self.all_connections.remove, self)
        self.ws_protocol_class = _guarded_socket(self.limits.write_seconds, release)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is refused in the form of every other error."""
        if not self.transport.is_closing():  # else it has been refused already, and better
            self._refuse(400, msg)

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _await_next(self) -> None:
        if not self.pipeline:
            self.all_connections.set_idle(self)
            self._expect(self.config.timeout_keep_alive, self._close)

    def _extend_body(self, num_bytes: int) -> None:
        """Each byte gives a body a little more time, so that large ones arrive and trickling ones do not last."""
        self._body_bytes += num_bytes
        if not self._is_answered():
            ends = self._body_started + self.limits.body_seconds + self._body_bytes / _SLOWEST_BYTES_PER_SECOND
            self._expect(max(0.0, ends - self.loop.time()), self._body_is_late)

    def _headers_are_late(self) -> None:
        if self._headers_complete:
            self._close()  # nothing was asked
        else:
            self._refuse(408, "the headers of the request took too long; send them at once", code="request_timeout")

    def _body_is_late(self) -> None:
        if self.flow.read_paused:  # it is the server that does not read
            self._body_started = self.loop.time()
            self._expect(self.limits.body_seconds, self._body_is_late)
        else:
            self._refuse(408, "the body of the request took too long; send it faster", code="request_timeout")

    def _too_many_bytes(self) -> str:
        return f"path and headers have more than {self.limits.max_header_bytes} bytes; send less"

    def _stop_parsing(self, message: str) -> None:
        """From within a callback of the parser: whatever is raised there ends it."""
        if not self.transport.is_closing():
            self._refuse(431, message, code="headers_too_large")
        raise ConnectionError(message)

    def _refuse(self, status: int, message: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        """Answer without the application, and close; nothing that comes after is parsed."""
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.abort()  # another answer is on its way, and this one would be read as part of it
            return
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        lines = [
            STATUS_LINE[status].rstrip(b"\r\n"),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
        ]
        if retry_after is not None:
            lines.append(b"retry-after: %d" % retry_after)
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self._close()

    def _close(self) -> None:
        """Close when everything is written, and in any case soon."""
        self._forget_deadline()
        self.transport.close()
        self._must_flush()

    def _must_flush(self) -> None:
        """The client has so long to read what there is."""
        if self._flush_deadline is None:
            self._flush_deadline = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _flushed(self) -> None:
        if self._flush_deadline is not None:
            self._flush_deadline.cancel()
            self._flush_deadline = None

    def _expect(self, seconds: float, late: Callable[[], Any]) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(seconds, late)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _guarded_socket(write_seconds: float, release: Callable[[], None]) -> type[asyncio.Protocol]:
    """Our WebSocket protocol, but that a client which reads nothing is cut off: a close frame would wait behind it."""
    # Imported with the first socket: a server is ready before the library would be.
    from glm_crush.serving.draining_socket import DrainingSocket

    class Guarded(DrainingSocket):
        _deadline: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._deadline = self.loop.call_later(write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._forget_deadline()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            release()
            super().connection_lost(exc)

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Guarded
