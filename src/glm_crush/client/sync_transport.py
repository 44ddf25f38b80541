"""Sends calls and waits in the calling thread.

Above: `client`. Below: httpx2. `async_transport` is its twin; what both have in common is in `wire`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import httpx2

from glm_crush.client.call import Call, Flow, Pause, StreamCall
from glm_crush.client.wire import ConnectionOptions, Exchange

__all__ = ["SyncTransport"]

Result = TypeVar("Result")


class SyncTransport:
    """A pool of connections to one server; may be used from several threads.

    Args:
        sleep: waits between attempts.
        shared: connections that belong to another transport.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        sleep: Callable[[float], None] = time.sleep,
        shared: httpx2.Client | None = None,
    ) -> None:
        self.options = options
        self._sleep = sleep
        self._owns = shared is None
        self._http = httpx2.Client(**options.for_httpx()) if shared is None else shared

    def with_options(self, **changes: Any) -> SyncTransport:
        """The same connections, asked in another way."""
        return SyncTransport(replace(self.options, **changes), sleep=self._sleep, shared=self._http)

    def send(self, call: Call[Result]) -> Result:
        """Send a call, again if it may be, and return its result.

        Raises:
            GlmError: it was refused, or the server cannot be reached.
        """
        exchange = Exchange(self.options, call)
        return call.parse(exchange.answer(self._answered(exchange, stream=False)))

    def open(self, call: StreamCall[Any, Any]) -> httpx2.Response:
        """Send a call until its answer begins; what comes after that is never asked for again. Raises as `send`."""
        return self._answered(Exchange(self.options, call), stream=True)

    def run(self, flow: Flow[Result]) -> Result:
        """Do the steps of a flow."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                    step = next(flow)
                else:
                    step = flow.send(self.send(step))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            flow.close()

    def close(self) -> None:
        """Close the connections, if they are this transport's own."""
        if self._owns:
            self._http.close()

    def _answered(self, exchange: Exchange, *, stream: bool) -> httpx2.Response:
        while True:
            try:
                response = self._http.send(exchange.request(self._http), stream=stream)
                if exchange.accepts(response):
                    return response
                try:
                    response.read()
                finally:
                    response.close()
                wait = exchange.after_refusal(response)
            except httpx2.HTTPError as failure:
                wait = exchange.after_failure(failure)
            self._sleep(wait)
