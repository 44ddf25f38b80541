"""What happens to every HTTP request before a route sees it: id, admission, body size, time limit, errors.

Plain ASGI, not Starlette's BaseHTTPMiddleware, which would hide the client's disconnect from the routes.
Above: `app.py`. Below: the gateway, which decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from glm_crush.serving.errors import ApiError, ErrorShapes, error_reply
from glm_crush.serving.gateway.admission import Admission, acting, findings_line
from glm_crush.serving.gateway.browser_guard import BrowserGuard
from glm_crush.serving.gateway.gateway import Credentials, Gateway, key_in
from glm_crush.serving.gateway.headers import limit_headers
from glm_crush.serving.gateway.scopes import OPEN_PATHS

__all__ = ["ApiMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LONGEST_REQUEST_ID = 128
_CLIENT_GONE = 499

_log = logging.getLogger("glm_crush.serving")


class ApiMiddleware:
    """Gives each request an id, has it admitted, bounds its body and its time, turns exceptions into error bodies.

    Args:
        app: the routes.
        gateway: admits requests. guard: refuses web pages that make a browser call without a key.
        max_body_bytes, timeout_seconds: of one request; no time limit if None. larger_bodies: paths that take more.
        error_shapes: paths whose errors have another protocol's shape.
    """

    def __init__(
        self,
        app: Application,
        *,
        gateway: Gateway,
        guard: BrowserGuard,
        max_body_bytes: int,
        timeout_seconds: float | None,
        larger_bodies: Mapping[str, int] | None = None,
        error_shapes: ErrorShapes | None = None,
    ) -> None:
        self._app = app
        self._error_shapes = error_shapes or ErrorShapes()
        self._gateway = gateway
        self._guard = guard
        self._max_body_bytes = max_body_bytes
        self._larger_bodies = dict(larger_bodies or {})
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; everything but HTTP passes through, and finds the gateway in its state."""
        if scope["type"] != "http":
            scope.setdefault("state", {}).update(gateway=self._gateway, browser_guard=self._guard)
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(scope, _request_id(headers), send)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        try:
            await self._answer(scope, headers, receive, exchange)
        except ClientDisconnect:
            pass  # there is nobody to tell; its status in the records is 499
        except Exception as error:
            if exchange.status is not None:
                raise  # the status is out; a stream reports its own errors as events
            await send_error(error, exchange.send, exchange.request_id, scope["path"], self._error_shapes)
        finally:
            if exchange.admission is not None:
                exchange.admission.close(exchange.status or _CLIENT_GONE)

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: _Exchange) -> None:
        largest = self._larger_bodies.get(scope["path"], self._max_body_bytes)
        check_declared_size(headers, largest)
        _check_encoding(headers)
        receive = bounded(receive, largest)
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, exchange.send)
            return
        client = scope.get("client")
        credentials = Credentials(key_in(headers), client[0] if client else None)
        route = f"{scope['method']} {scope['path']}"
        admission = await self._gateway.open(credentials, route, request_id=exchange.request_id)
        exchange.admission = admission
        if admission.grant.key_id is None:
            self._guard.check(headers)
        await admission.begin()
        scope["state"]["admission"] = admission
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                with acting(admission):
                    await self._app(scope, receive, exchange.send)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ApiError(
                504,
                f"the request took longer than {self._timeout_seconds:g} s (gateway.request_timeout_seconds); "
                "ask for less, or as a stream",
                code="request_timeout",
            ) from None


def check_declared_size(headers: dict[bytes, bytes], max_body_bytes: int) -> None:
    """Refuse a body that says itself that it is too large. Raises ApiError."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise _too_large(int(declared), max_body_bytes)


def _check_encoding(headers: dict[bytes, bytes]) -> None:
    """Refuse a compressed body: a small one could hold any amount. Raises ApiError."""
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() not in (b"identity", b""):
        raise ApiError(
            415,
            f"the body has the content-encoding {encoding.decode('latin-1')[:40]!r}; send it uncompressed",
            code="unsupported_encoding",
            headers={"accept-encoding": "identity"},
        )


def bounded(receive: Receive, max_body_bytes: int) -> Receive:
    """`receive` that refuses a body that grows beyond the limit without having declared it."""
    received = 0

    async def bounded_receive() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > max_body_bytes:
                raise _too_large(received, max_body_bytes)
        return message

    return bounded_receive


def _too_large(size: int, max_body_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"the body has at least {size} bytes; this route takes {max_body_bytes} (api.max_body_bytes, and for files "
        "storage.max_file_bytes)",
        code="request_too_large",
    )


class _Exchange:
    """One request and what has been sent for it."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.admission: Admission | None = None
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()

    async def send(self, message: Message) -> None:
        """Send on, with our headers."""
        if message["type"] == "http.response.start":
            scope, self.status = self._scope, message["status"]
            elapsed = round((time.perf_counter() - self._started) * 1000)
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.request_id.encode()),
                (b"request-id", self.request_id.encode()),  # as Anthropic calls it
                (b"openai-processing-ms", str(elapsed).encode()),
                (b"openai-version", b"2020-10-01"),
            ]
            if self.admission is not None and self.admission.limits:
                anthropic = scope["path"].startswith("/v1/messages")
                message["headers"] += limit_headers(self.admission.limits, anthropic=anthropic)
            if self.admission is not None and self.admission.findings:
                message["headers"].append((b"x-glm-guard", findings_line(self.admission.findings).encode("ascii")))
            facts = {"method": scope["method"], "path": scope["path"], "status": self.status}
            line = "%(method)s %(path)s %(status)d %(milliseconds)d ms %(request_id)s"
            facts |= {"milliseconds": elapsed, "request_id": self.request_id}
            _log.info(line, facts, extra=facts)
        await self._send(message)


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's own id if it is short and printable, so that logs of both sides can be joined."""
    given = headers.get(b"x-request-id", b"")[: _LONGEST_REQUEST_ID + 1]
    if 0 < len(given) <= _LONGEST_REQUEST_ID and all(0x21 <= byte < 0x7F for byte in given):
        return given.decode("ascii")
    return f"req_{uuid.uuid4().hex}"


async def send_error(error: Exception, send: Send, request_id: str, path: str, shapes: ErrorShapes) -> None:
    """Send the error body of an exception; a 500 is logged with its traceback."""
    reply = error_reply(error)
    if reply.status == 500:
        _log.error("request %s failed", request_id, exc_info=error)
    body = json.dumps(shapes.body(path, reply, request_id)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    if reply.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
