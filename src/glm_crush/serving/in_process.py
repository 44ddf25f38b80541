"""Requests that the server makes of itself: through the same handlers and on behalf of the key that queued them.

Above: batches. Below: the application's routes and the gateway. There is no socket, and nobody who goes away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.routing import Router

from glm_crush.errors import AccessDeniedError
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.admission import Admission, acting
from glm_crush.serving.gateway.gateway import Gateway
from glm_crush.serving.gateway.scopes import scope_of
from glm_crush.serving.middleware import Message
from glm_crush.serving.routing import ApiRoute, starlette_routes

__all__ = ["InProcessCaller", "InProcessReply"]

_log = logging.getLogger("glm_crush.serving")


@dataclass(frozen=True)
class InProcessReply:
    """What a client would have got; `retry_after_seconds` is set where it would be told to come back."""

    status: int
    body: Any
    request_id: str
    retry_after_seconds: float | None = None


class InProcessCaller:
    """Calls routes.

    Args:
        routes: of the application.
        gateway: knows what keys may do now.
    """

    def __init__(self, routes: Iterable[ApiRoute], gateway: Gateway) -> None:
        routes = list(routes)
        self._router = Router(routes=starlette_routes(routes))
        self._paths = frozenset(endpoint.path for endpoint, _ in routes if endpoint.method == "POST")
        self._gateway = gateway

    def serves(self, path: str) -> bool:
        """Whether there is a route to post to."""
        return path in self._paths

    async def admit(
        self, key_id: str | None, path: str, request_id: str = "", *, holds_slot: bool = False
    ) -> Admission:
        """An admission for work that a key queued earlier, or (`holds_slot`) has under way; the caller closes it.

        Raises:
            AuthenticationError, AccessDeniedError, RateLimitError: the key is gone, or may not, or not now.
        """
        grant = await self._gateway.grant_of(key_id)
        if not grant.allows_scope(scope_of(path) or ""):
            raise AccessDeniedError(f"{path} is not open to the key that queued this work")
        admission = Admission(grant, self._gateway.books, route=f"POST {path}", request_id=request_id, address=None)
        try:
            await admission.begin(holds_slot=holds_slot)
        except BaseException:
            admission.close(429)
            raise
        return admission

    async def post(self, path: str, body: bytes, *, key_id: str | None, holds_slot: bool = False) -> InProcessReply:
        """Post a JSON body on behalf of a key; every refusal and failure is a reply. See `admit`."""
        request_id = f"req_{uuid.uuid4().hex}"
        reply = _Reply()
        admission: Admission | None = None
        try:
            admission = await self.admit(key_id, path, request_id, holds_slot=holds_slot)
            scope = _scope(path, request_id, admission)
            with acting(admission):
                await self._router(scope, _receiver(body), reply.send)
        except Exception as error:  # noqa: BLE001 - becomes the reply, as it does for clients
            refusal = error_reply(error)
            if refusal.status >= 500 and refusal.status != 503:
                _log.error("request %s failed", request_id, exc_info=error)
            retry_after = refusal.headers.get("retry-after")
            reply.status = refusal.status
            return InProcessReply(
                refusal.status, refusal.body(), request_id, None if retry_after is None else float(retry_after)
            )
        finally:
            if admission is not None:
                admission.close(reply.status)
        return InProcessReply(reply.status, json.loads(bytes(reply.body)), request_id)


class _Reply:
    def __init__(self) -> None:
        self.status = 499
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


def _scope(path: str, request_id: str, admission: Admission) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {"request_id": request_id, "admission": admission},
    }


def _receiver(body: bytes) -> Any:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the caller never disconnects
        raise AssertionError

    return receive
