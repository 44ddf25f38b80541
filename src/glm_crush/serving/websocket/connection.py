"""One WebSocket: any number of generations at a time, each a task; one writer, whose pace is the client's.

Above: `part`. Below: the chat turn, the gateway. A generation that sends waits until the socket has taken its message,
so a slow client slows its own generations and nobody else; one that takes nothing for a while is cut off.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import Any

from pydantic_core import from_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from glm_crush.errors import InvalidParameterError, OverloadedError
from glm_crush.serving.chat_turn import prepare_turn
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.admission import acting
from glm_crush.serving.gateway.gateway import Credentials, Gateway
from glm_crush.serving.openai.chat import turn_request
from glm_crush.serving.openai.chat_reply import chat_events
from glm_crush.serving.openai.exchange import new_head
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.websocket.log_feed import LogFeed
from glm_crush.serving.websocket.protocol import (
    Cancel,
    Chat,
    Logs,
    chunk_message,
    parse_message,
    server_message,
)

__all__ = ["Connection"]

_ROUTE = "POST /v1/ws"
_CANCELLED = 499
_GOING_AWAY = 1001


class Connection:
    """Answers the messages of one client until it leaves, or the server does.

    Args:
        draining: set when the server stops: generations that run may end, none is begun.
        max_generations: at a time. send_timeout_seconds: a client that takes nothing for so long is cut off.
    """

    def __init__(
        self,
        socket: WebSocket,
        models: ServedModels,
        gateway: Gateway,
        credentials: Credentials,
        feed: LogFeed,
        draining: asyncio.Event,
        *,
        max_generations: int,
        send_timeout_seconds: float,
    ) -> None:
        self._socket = socket
        self._models = models
        self._gateway = gateway
        self._credentials = credentials
        self._feed = feed
        self._draining = draining
        self._max_generations = max_generations
        self._send_timeout = send_timeout_seconds
        self._generations: dict[str, asyncio.Task[None]] = {}
        self._logs: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Until the client leaves; its generations end with it."""
        leaving = asyncio.create_task(self._leave())
        try:
            while True:
                await self._obey(await self._receive())
        except WebSocketDisconnect:
            pass
        finally:
            running = [leaving, *self._generations.values(), *([self._logs] if self._logs else ())]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _leave(self) -> None:
        """Close the connection once the server stops and the last generation has ended."""
        await self._draining.wait()
        while self._generations:
            await asyncio.wait(list(self._generations.values()))
        with suppress(Exception):  # the client was faster
            await self._socket.close(_GOING_AWAY, "the server stops")

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        return bytes(message["bytes"]) if text is None else text

    async def _obey(self, text: str | bytes) -> None:
        try:
            message = parse_message(text)
            if isinstance(message, Chat):
                self._begin(message)
            elif isinstance(message, Cancel):
                self._cancel(message.id)
            elif isinstance(message, Logs):
                await self._switch_logs(message)
            else:
                await self._send(server_message("pong"))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a message, its sender is told
            await self._send(_error(error, _id_in(text)))

    def _begin(self, message: Chat) -> None:
        if message.id in self._generations:
            raise InvalidParameterError(f"id {message.id!r} is in use; choose another", parameter="id")
        if len(self._generations) >= self._max_generations:
            raise OverloadedError(
                f"{len(self._generations)} generations run on this connection, and no more may; wait for one to end"
            )
        if self._draining.is_set():
            raise OverloadedError("the server stops; ask again on a new connection")
        task = asyncio.create_task(self._generate(message))
        self._generations[message.id] = task
        task.add_done_callback(lambda _: self._generations.pop(message.id, None))

    def _cancel(self, generation: str) -> None:
        task = self._generations.get(generation)
        if task is not None:  # else it has just ended, and its end is on the way
            task.cancel()

    async def _generate(self, message: Chat) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        status = _CANCELLED
        admission = None
        try:
            admission = await self._gateway.admit(self._credentials, _ROUTE, request_id=request_id)
            with acting(admission):
                await self._stream(message, request_id)
            status = 200
        except asyncio.CancelledError:
            # The connection is there still unless it was its end that cancelled; then this goes nowhere.
            with suppress(Exception):
                await self._send(server_message("cancelled", id=message.id))
        except WebSocketDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - the client hears of every end
            status = error_reply(error).status
            await self._send(_error(error, message.id))
        finally:
            if admission is not None:
                admission.close(status)

    async def _stream(self, message: Chat, request_id: str) -> None:
        # A generation here is a stream, whether it says so or not: what only whole replies hold is refused.
        request = message.request.model_copy(update={"stream": True})
        async with self._models.use(request.model) as model:
            turn = await prepare_turn(model, turn_request(request, model))
            await self._send(server_message("started", id=message.id, request_id=request_id, model=model.name))
            events = chat_events(turn, new_head("chatcmpl", model), include_usage=False)
            try:
                async for chunks in events:
                    for chunk in chunks.split(b"\n\n"):
                        if chunk and chunk != b"data: [DONE]":
                            await self._send(chunk_message(message.id, chunk.removeprefix(b"data: ")))
            finally:
                await events.aclose()
            usage = turn.usage
            counts = {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cached_tokens": usage.cached_tokens,
                "reasoning_tokens": turn.num_reasoning_tokens,
                **turn.more_usage,
            }
            await self._send(server_message("done", id=message.id, usage=counts))

    async def _switch_logs(self, message: Logs) -> None:
        if self._logs is not None:
            self._logs.cancel()
            self._logs = None
        if not message.subscribe:
            await self._send(server_message("logs", subscribed=False, level=message.level))
            return
        admission = await self._gateway.open(self._credentials, "GET /admin/v1/logs")
        admission.close(200)
        self._logs = asyncio.create_task(self._follow_logs(message))

    async def _follow_logs(self, message: Logs) -> None:
        with self._feed.subscribed(message.level, message.recent) as (subscription, recent):
            await self._send(server_message("logs", subscribed=True, level=message.level, recent=len(recent)))
            for line in recent:
                await self._send(server_message("log", line=line))
            async for line in subscription.lines():
                await self._send(server_message("log", line=line))

    async def _send(self, text: str) -> None:
        async with self._writing:
            try:
                async with asyncio.timeout(self._send_timeout):
                    await self._socket.send_text(text)
            except TimeoutError:
                await self._socket.close(1008, "messages are not read")
                raise WebSocketDisconnect(1008) from None
            except RuntimeError:  # Starlette: the connection has been closed
                raise WebSocketDisconnect(1006) from None


def _error(error: Exception, generation: str | None) -> str:
    reply = error_reply(error)
    named: dict[str, Any] = {} if generation is None else {"id": generation}
    return server_message("error", **named, status=reply.status, error=reply.body()["error"])


def _id_in(text: str | bytes) -> str | None:
    """The id of a message that is wrong otherwise, so that its sender can tell which."""
    try:
        value = from_json(text)
    except ValueError:
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and len(found) <= 128 else None
