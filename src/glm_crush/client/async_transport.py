"""Sends calls and waits in the event loop.

Above: `async_client`. Below: httpx2. `sync_transport` is its twin; what both have in common is in `wire`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import httpx2

from glm_crush.client.call import Call, Flow, Pause, StreamCall
from glm_crush.client.wire import ConnectionOptions, Exchange

__all__ = ["AsyncTransport"]

Result = TypeVar("Result")


class AsyncTransport:
    """A pool of connections to one server, of one event loop.

    Args:
        sleep: waits between attempts.
        shared: connections that belong to another transport.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        shared: httpx2.AsyncClient | None = None,
    ) -> None:
        self.options = options
        self._sleep = sleep
        self._owns = shared is None
        self._http = httpx2.AsyncClient(**options.for_httpx()) if shared is None else shared

    def with_options(self, **changes: Any) -> AsyncTransport:
        """The same connections, asked in another way."""
        return AsyncTransport(replace(self.options, **changes), sleep=self._sleep, shared=self._http)

    async def send(self, call: Call[Result]) -> Result:
        """Send a call, again if it may be, and return its result.

        Raises:
            GlmError: it was refused, or the server cannot be reached.
        """
        exchange = Exchange(self.options, call)
        return call.parse(exchange.answer(await self._answered(exchange, stream=False)))

    async def open(self, call: StreamCall[Any, Any]) -> httpx2.Response:
        """Send a call until its answer begins; what comes after that is never asked for again. Raises as `send`."""
        return await self._answered(Exchange(self.options, call), stream=True)

    async def run(self, flow: Flow[Result]) -> Result:
        """Do the steps of a flow."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                    step = next(flow)
                else:
                    step = flow.send(await self.send(step))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            flow.close()

    async def close(self) -> None:
        """Close the connections, if they are this transport's own."""
        if self._owns:
            await self._http.aclose()

    async def _answered(self, exchange: Exchange, *, stream: bool) -> httpx2.Response:
        while True:
            try:
                response = await self._http.send(exchange.request(self._http), stream=stream)
                if exchange.accepts(response):
                    return response
                try:
                    await response.aread()
                finally:
                    await response.aclose()
                wait = exchange.after_refusal(response)
            except httpx2.HTTPError as failure:
                wait = exchange.after_failure(failure)
            await self._sleep(wait)
