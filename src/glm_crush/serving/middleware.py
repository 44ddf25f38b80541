"""What happens to every HTTP request before a route sees it: id, key, body size, timing, errors.

Plain ASGI, not Starlette's BaseHTTPMiddleware, which would hide the client's disconnect from the routes.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from glm_crush.serving.errors import ApiError, ErrorShapes, error_reply

__all__ = ["ApiMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_PATHS = frozenset({"/health", "/ready", "/version"})
_LONGEST_REQUEST_ID = 128

_log = logging.getLogger("glm_crush.serving")


class ApiMiddleware:
    """Gives each request an id, checks its key, bounds its body, and turns exceptions into error bodies.

    Args:
        app: the routes. key: None = none is needed. max_body_bytes: of requests.
        larger_bodies: paths that take more. error_shapes: paths whose errors have another protocol's shape.
    """

    def __init__(
        self,
        app: Application,
        *,
        key: str | None,
        max_body_bytes: int,
        larger_bodies: Mapping[str, int] | None = None,
        error_shapes: ErrorShapes | None = None,
    ) -> None:
        self._app = app
        self._error_shapes = error_shapes or ErrorShapes()
        self._key = key.encode() if key else None
        self._max_body_bytes = max_body_bytes
        self._larger_bodies = dict(larger_bodies or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; everything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        response_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                elapsed = round((time.perf_counter() - started) * 1000)
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"request-id", request_id.encode()),  # as Anthropic calls it
                    (b"openai-processing-ms", str(elapsed).encode()),
                    (b"openai-version", b"2020-10-01"),
                ]
                facts = {"method": scope["method"], "path": scope["path"], "status": message["status"]}
                line = "%(method)s %(path)s %(status)d %(milliseconds)d ms %(request_id)s"
                facts |= {"milliseconds": elapsed, "request_id": request_id}
                _log.info(line, facts, extra=facts)
            await send(message)

        try:
            self._check_key(scope, headers)
            limit = self._larger_bodies.get(scope["path"], self._max_body_bytes)
            check_declared_size(headers, limit)
            await self._app(scope, bounded(receive, limit), send_with_headers)
        except Exception as error:
            if response_started:
                raise  # the status is out; a stream reports its own errors as events
            await send_error(error, send_with_headers, request_id, scope["path"], self._error_shapes)

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._key is None or scope["path"] in _OPEN_PATHS:
            return
        given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
        if not hmac.compare_digest(given, self._key):
            reason = "the API key is wrong" if given else "no API key was sent"
            raise ApiError(401, f"{reason}; send it as 'Authorization: Bearer KEY'", code="invalid_api_key")


def check_declared_size(headers: dict[bytes, bytes], max_body_bytes: int) -> None:
    """Refuse a body that says itself that it is too large. Raises ApiError."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise _too_large(int(declared), max_body_bytes)


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
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
