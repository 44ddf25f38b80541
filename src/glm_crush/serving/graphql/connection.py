"""One WebSocket that speaks graphql-transport-ws: any number of operations at a time, each a task; one writer.

Above: `part.py`. Below: the operations, the gateway. Every operation is admitted like a request of its own. One that
sends waits until the socket has taken its message, so a slow client slows its own operations and nobody else; one that
reads nothing is cut off by the listener (`gateway.write_timeout_seconds`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import from_json, to_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from glm_crush.errors import AccessError, OverloadedError
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.accounts import Accounts
from glm_crush.serving.gateway.admission import acting
from glm_crush.serving.gateway.browser_guard import BrowserGuard
from glm_crush.serving.gateway.gateway import Credentials, Gateway, key_in
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.errors import DocumentRefused, field_error
from glm_crush.serving.graphql.operation import GraphqlRequest, Operations, read_parameters
from glm_crush.serving.orderly_end import ends_in_order
from glm_crush.serving.served_models import ServedModels

__all__ = ["PROTOCOL", "Connection"]

PROTOCOL = "graphql-transport-ws"
_ROUTE = "GET /graphql"
_CANCELLED = 499
_GOING_AWAY = 1001
_LONGEST_ID = 128
_LONGEST_REASON = 120  # bytes of a close frame

_log = logging.getLogger("glm_crush.serving")


class _Closed(Exception):  # noqa: N818 (an end, not a failure)
    """The client breaks the protocol: the connection is closed with a code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Connection:
    """Answers the messages of one client until it leaves, or the server does.

    Args:
        draining: set when the server stops: operations that run may end, none is begun.
        max_operations: at a time. init_timeout_seconds: until `connection_init` has come.
    """

    def __init__(
        self,
        socket: WebSocket,
        operations: Operations,
        models: ServedModels,
        accounts: Accounts,
        draining: asyncio.Event,
        *,
        max_operations: int,
        init_timeout_seconds: float,
    ) -> None:
        self._socket = socket
        self._operations = operations
        self._models = models
        self._accounts = accounts
        self._draining = draining
        self._max_operations = max_operations
        self._init_timeout = init_timeout_seconds
        self._gateway: Gateway = socket.scope["state"]["gateway"]
        self._guard: BrowserGuard = socket.scope["state"]["browser_guard"]
        self._headers: dict[bytes, bytes] = dict(socket.scope["headers"])
        self._credentials: Credentials | None = None  # known once the client has introduced itself
        self._running: dict[str, asyncio.Task[None]] = {}  # by the client's id, which is free again at the end
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Until the client leaves or breaks the protocol; its operations end with it."""
        offered = self._socket.scope.get("subprotocols", [])
        await self._socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        ends_in_order(self._socket.scope)
        leaving = asyncio.create_task(self._leave())
        try:
            if PROTOCOL not in offered:
                raise _Closed(4406, f"Subprotocol not acceptable: offer {PROTOCOL}")
            await self._introduce()
            while True:
                await self._obey(await self._receive())
        except _Closed as broken:
            with suppress(RuntimeError):  # it is closed already
                await self._socket.close(broken.code, broken.reason.encode()[:_LONGEST_REASON].decode(errors="ignore"))
        except WebSocketDisconnect:
            pass
        finally:
            running = [leaving, *self._tasks]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _leave(self) -> None:
        """Close the connection once the server stops and the last operation has ended."""
        await self._draining.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)
        with suppress(Exception):  # the client was faster
            await self._socket.close(_GOING_AWAY, "the server stops")

    async def _introduce(self) -> None:
        """The first message says who asks; before it only pings are answered."""
        try:
            async with asyncio.timeout(self._init_timeout):
                while self._credentials is None:
                    message = await self._receive()
                    if message["type"] == "connection_init":
                        await self._accept_client(message.get("payload"))
                    elif message["type"] == "subscribe":
                        raise _Closed(4401, "Unauthorized: send connection_init first")
                    else:
                        await self._obey(message)
        except TimeoutError:
            raise _Closed(4408, "Connection initialisation timeout") from None
        await self._send({"type": "connection_ack"})

    async def _accept_client(self, payload: object) -> None:
        if not isinstance(payload, (dict, type(None))):
            raise _Closed(4400, "Invalid message: the payload of connection_init must be an object")
        key = key_in(self._headers) or key_in(_headers_in(payload or {}))
        address = self._socket.client.host if self._socket.client else None
        credentials = Credentials(key, address)
        try:
            admission = await self._gateway.open(credentials, _ROUTE)
            admission.close(101)
            if admission.grant.key_id is None:
                self._guard.check(self._headers)
        except (AccessError, OverloadedError) as error:
            raise _Closed(4403, f"Forbidden: {error}") from None
        self._credentials = credentials

    async def _receive(self) -> dict[str, Any]:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            raise _Closed(4400, "Invalid message: send text, not bytes")
        large = len(text) > 100_000
        try:
            value = await asyncio.to_thread(_parsed, text) if large else _parsed(text)
        except ValueError as error:
            raise _Closed(4400, f"Invalid message: no JSON: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise _Closed(4400, "Invalid message: send an object with a type")
        return {**value, "size": len(text)}

    async def _obey(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "ping":
            await self._send({"type": "pong"})
        elif kind == "subscribe":
            await self._begin(message)
        elif kind == "complete":
            task = self._running.pop(_id_of(message), None)
            if task is not None:  # else it has just ended
                task.cancel()
        elif kind == "connection_init":
            raise _Closed(4429, "Too many initialisation requests")
        elif kind != "pong":
            raise _Closed(4400, f"Invalid message: there is no type {kind[:40]!r}")

    async def _begin(self, message: Mapping[str, Any]) -> None:
        operation_id = _id_of(message)
        if operation_id in self._running:
            raise _Closed(4409, f"Subscriber for {operation_id} already exists")
        try:
            if len(self._tasks) >= self._max_operations:
                raise OverloadedError(
                    f"{len(self._tasks)} operations run on this connection, and no more may; wait for one to end"
                )
            if self._draining.is_set():
                raise OverloadedError("the server stops; ask again on a new connection")
            request = read_parameters(message.get("payload"), message["size"])
        except DocumentRefused as error:
            await self._send({"type": "error", "id": operation_id, "payload": error.formatted()})
            return
        except OverloadedError as error:
            await self._send({"type": "error", "id": operation_id, "payload": [field_error(error, "")]})
            return
        task = asyncio.create_task(self._run(operation_id, request))
        self._running[operation_id] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, operation_id: str, request: GraphqlRequest) -> None:
        assert self._credentials is not None
        request_id = f"req_{uuid.uuid4().hex}"
        started = time.perf_counter()
        status = _CANCELLED
        admission = None
        try:
            admission = await self._gateway.admit(self._credentials, _ROUTE, request_id=request_id)
            context = OperationContext(models=self._models, accounts=self._accounts, admission=admission)
            with acting(admission):
                await self._answer(operation_id, request, context, request_id)
            status = 200
        except WebSocketDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - the client hears of every end
            refused = isinstance(error, DocumentRefused)
            payload = error.formatted() if isinstance(error, DocumentRefused) else [field_error(error, request_id)]
            status = 400 if refused else error_reply(error).status
            with suppress(WebSocketDisconnect):
                await self._end({"type": "error", "id": operation_id, "payload": payload})
        finally:
            if admission is not None:
                admission.close(status)
            elapsed = round((time.perf_counter() - started) * 1000)
            facts = {"method": "WS", "path": "/graphql", "status": status}
            facts |= {"milliseconds": elapsed, "request_id": request_id}
            _log.info("%(method)s %(path)s %(status)d %(milliseconds)d ms %(request_id)s", facts, extra=facts)

    async def _answer(
        self, operation_id: str, request: GraphqlRequest, context: OperationContext, request_id: str
    ) -> None:
        operation = await self._operations.prepare(request, context, request_id)
        responses = operation.results()
        try:
            async for response in responses:
                if "data" not in response:  # it could not begin, or not go on
                    await self._end({"type": "error", "id": operation_id, "payload": response["errors"]})
                    return
                await self._send({"type": "next", "id": operation_id, "payload": response})
        finally:
            await responses.aclose()
        await self._end({"type": "complete", "id": operation_id})

    async def _end(self, message: Mapping[str, Any]) -> None:
        """The last message of an operation: its id is free when the client reads it."""
        if self._running.get(message["id"]) is asyncio.current_task():  # else the client has ended it itself
            del self._running[message["id"]]
            await self._send(message)

    async def _send(self, message: Mapping[str, Any]) -> None:
        text = to_json(message).decode()
        async with self._writing:
            try:
                await self._socket.send_text(text)
            except RuntimeError:  # Starlette: the connection has been closed
                raise WebSocketDisconnect(1006) from None


def _parsed(text: str) -> Any:
    return from_json(text, allow_inf_nan=False)


def _id_of(message: Mapping[str, Any]) -> str:
    found = message.get("id")
    if not isinstance(found, str) or not 0 < len(found) <= _LONGEST_ID:
        raise _Closed(4400, f"Invalid message: give an id of 1 to {_LONGEST_ID} characters")
    return found


def _headers_in(payload: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers that a client puts into its payload because a browser lets it send no others."""
    nested = payload.get("headers")
    given = {**payload, **(nested if isinstance(nested, dict) else {})}
    return {
        name.lower().encode(): value.encode("utf-8", errors="replace")
        for name, value in given.items()
        if isinstance(value, str)
    }
