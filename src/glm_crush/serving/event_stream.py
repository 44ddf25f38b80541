"""Server-sent events and the like: chunks as they come, a sign of life in long silence, an end when the client is gone.

Below: any async iterator of encoded events. Knows nothing of the protocol whose events it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response

from glm_crush.serving.middleware import Receive, Scope, Send

__all__ = ["EventStream", "run_until_disconnect"]

Result = TypeVar("Result")

_log = logging.getLogger("glm_crush.serving")

_COMMENT = b": ping\n\n"


class EventStream(Response):
    """A streamed response that closes its source as soon as the client disconnects.

    The status goes out with the first event or the first comment line: what fails before that is an ordinary
    error response, what fails later is one event.

    Args:
        events: encoded events, blank line included; closed in every case, so it must release what it holds.
        encode_error: the event that tells the client why the stream ends early.
        ping_interval_seconds: silence after which a ping keeps proxies and clients from giving up.
        ping: a sign of life, by default a comment line; None = the protocol has none.
        media_type: what the events are.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        encode_error: Callable[[Exception], bytes],
        ping_interval_seconds: float,
        ping: bytes | None = _COMMENT,
        media_type: str = "text/event-stream",
    ) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._events = events
        self._encode_error = encode_error
        self._ping_interval = ping_interval_seconds
        self._ping_bytes = ping
        self._last_sent = time.monotonic()
        self._started = False

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send every event, or stop at the client's disconnect."""
        if self._ping_bytes is None:
            await run_until_disconnect(self._send_all(send), receive)
            return
        pings = asyncio.create_task(self._ping(send, self._ping_bytes))
        try:
            await run_until_disconnect(self._send_all(send), receive)
        finally:
            await _cancel(pings)

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                await self._send(send, event)
        except Exception as error:
            if not self._started:
                raise
            _log.error("a stream failed after it had begun", exc_info=error)
            await self._send(send, self._encode_error(error))
        finally:
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, event: bytes) -> None:
        self._last_sent = time.monotonic()
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _ping(self, send: Send, ping: bytes) -> None:
        while True:
            silence = time.monotonic() - self._last_sent
            if silence >= self._ping_interval:
                await self._send(send, ping)
                silence = 0.0
            await asyncio.sleep(self._ping_interval - silence)


async def run_until_disconnect(work: Coroutine[Any, Any, Result], receive: Receive) -> Result | None:
    """Await `work`, but cancel it when the client goes away; None then.

    The request's body must have been read, so that the next message can only be the disconnect.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel(task)
        await _cancel(watcher)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
