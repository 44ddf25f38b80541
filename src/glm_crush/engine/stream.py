"""One request's way from the thread that owns an engine to the coroutine that reads it.

Above: `async_engine` and `process`, whose threads put deltas in; `submit` of both takes them out. Each event loop is
woken at most once per delivery, however many streams it reads.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from glm_crush.engine.output import RequestDelta

__all__ = ["Delivery", "TokenStream", "deliver"]


@dataclass(eq=False)
class TokenStream:
    """Deltas of one request. The event loop alone touches it; `deliver` puts things in from other threads."""

    loop: asyncio.AbstractEventLoop
    deltas: list[RequestDelta] = field(default_factory=list)
    error: Exception | None = None
    waiter: asyncio.Future[None] | None = None

    async def take(self) -> list[RequestDelta]:
        """Everything that has come since the last call, at least one delta.

        Raises:
            Exception: the request was refused or the engine stopped; after all deltas that came before.
        """
        if not self.deltas and self.error is None:
            self.waiter = self.loop.create_future()
            await self.waiter
        if not self.deltas and self.error is not None:
            raise self.error
        deltas, self.deltas = self.deltas, []
        return deltas

    def put(self, delta: RequestDelta | None, error: Exception | None) -> None:
        """Called in the event loop."""
        if delta is not None:
            self.deltas.append(delta)
        self.error = self.error or error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


Delivery = tuple[TokenStream, RequestDelta | None, Exception | None]


def deliver(deliveries: Iterable[Delivery]) -> list[TokenStream]:
    """Hand everything out, waking each event loop once.

    Returns: the streams whose event loop is closed: nobody is left to read them.
    """
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        by_loop[delivery[0].loop].append(delivery)
    abandoned: list[TokenStream] = []
    for loop, items in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, items)
        except RuntimeError:  # the loop is closed
            abandoned += [stream for stream, _, _ in items]
    return abandoned


def _put_all(deliveries: list[Delivery]) -> None:
    for stream, delta, error in deliveries:
        stream.put(delta, error)
