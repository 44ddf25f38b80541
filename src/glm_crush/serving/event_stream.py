"""Server-sent events: chunks as they come, a comment line in long silence, an end when the client is gone.

Below: any async iterator of encoded events. Knows nothing of the protocol whose events it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response

from glm_crush.serving.middleware import Receive, Scope, Send

__all__ = ["EventStream", "run_until_disconnect"]

Result = TypeVar("Result")

_PING = b": ping\n\n"


class EventStream(Response):
    """A `text/event-stream` response that closes its source as soon as the client disconnects.

    Args:
        events: encoded events, blank line included; closed in every case, so it must release what it holds.
        ping_interval_seconds: silence after which a comment line keeps proxies and clients from giving up.
    """

    def __init__(self, events: AsyncIterator[bytes], *, ping_interval_seconds: float) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._events = events
        self._ping_interval = ping_interval_seconds
        self._last_sent = time.monotonic()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send every event, or stop at the client's disconnect."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        helper = asyncio.create_task(self._ping(send))
        try:
            await run_until_disconnect(self._send_all(send), receive)
        finally:
            helper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await helper

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                self._last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    async def _ping(self, send: Send) -> None:
        while True:
            silence = time.monotonic() - self._last_sent
            if silence >= self._ping_interval:
                self._last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": _PING, "more_body": True})
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
