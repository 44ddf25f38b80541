"""Methods of the two clients, made from the builders of requests: each request is defined once, with its signature, its
types and its docstring, and sent in two ways.

Above: `client`, `async_client`. Below: the transports. A group, such as `client.files`, is bound to its client's
transport.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from glm_crush.client.async_transport import AsyncTransport
from glm_crush.client.call import Call, Flow, PageCall, StreamCall
from glm_crush.client.stream import AsyncStream, Stream
from glm_crush.client.sync_transport import SyncTransport

__all__ = [
    "AsyncGroup",
    "SyncGroup",
    "async_flow",
    "async_method",
    "async_pages",
    "async_stream",
    "sync_flow",
    "sync_method",
    "sync_pages",
    "sync_stream",
]

P = ParamSpec("P")
Result = TypeVar("Result")
Event = TypeVar("Event")
Whole = TypeVar("Whole")


class SyncGroup:
    """Methods that wait in the calling thread."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport


class AsyncGroup:
    """Methods that wait in the event loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


def sync_method(build: Callable[P, Call[Result]]) -> Callable[Concatenate[SyncGroup, P], Result]:
    """Send the request and return its result."""

    @wraps(build)
    def method(self: SyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self._transport.send(build(*args, **kwargs))

    return _signed(method, build)


def async_method(
    build: Callable[P, Call[Result]],
) -> Callable[Concatenate[AsyncGroup, P], Coroutine[Any, Any, Result]]:
    """Send the request and return its result."""

    @wraps(build)
    async def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return await self._transport.send(build(*args, **kwargs))

    return _signed(method, build)


def sync_flow(build: Callable[P, Flow[Result]]) -> Callable[Concatenate[SyncGroup, P], Result]:
    """Do the requests of a flow and return its result."""

    @wraps(build)
    def method(self: SyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self._transport.run(build(*args, **kwargs))

    return _signed(method, build)


def async_flow(
    build: Callable[P, Flow[Result]],
) -> Callable[Concatenate[AsyncGroup, P], Coroutine[Any, Any, Result]]:
    """Do the requests of a flow and return its result."""

    @wraps(build)
    async def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return await self._transport.run(build(*args, **kwargs))

    return _signed(method, build)


def sync_stream(
    build: Callable[P, StreamCall[Event, Whole]],
) -> Callable[Concatenate[SyncGroup, P], Stream[Event, Whole]]:
    """A stream over the request, which is sent when the stream is entered."""

    @wraps(build)
    def method(self: SyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Stream[Event, Whole]:
        return Stream(self._transport, build(*args, **kwargs))

    return _signed(method, build)


def async_stream(
    build: Callable[P, StreamCall[Event, Whole]],
) -> Callable[Concatenate[AsyncGroup, P], AsyncStream[Event, Whole]]:
    """A stream over the request, which is sent when the stream is entered."""

    @wraps(build)
    def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[Event, Whole]:
        return AsyncStream(self._transport, build(*args, **kwargs))

    return _signed(method, build)


def sync_pages(build: Callable[P, PageCall[Result]]) -> Callable[Concatenate[SyncGroup, P], Iterator[Result]]:
    """Every item of every page, which are fetched as they are needed."""

    @wraps(build)
    def method(self: SyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Result]:
        pages = build(*args, **kwargs)
        page = self._transport.send(pages.page(None))
        yield from page.data
        while page.has_more:
            page = self._transport.send(pages.page(page.last_id))
            yield from page.data

    return _signed(method, build)


def async_pages(
    build: Callable[P, PageCall[Result]],
) -> Callable[Concatenate[AsyncGroup, P], AsyncIterator[Result]]:
    """Every item of every page, which are fetched as they are needed."""

    @wraps(build)
    async def method(self: AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Result]:
        pages = build(*args, **kwargs)
        page = await self._transport.send(pages.page(None))
        for item in page.data:
            yield item
        while page.has_more:
            page = await self._transport.send(pages.page(page.last_id))
            for item in page.data:
                yield item

    return _signed(method, build)


Method = TypeVar("Method", bound=Callable[..., Any])


def _signed(method: Method, build: Callable[..., Any]) -> Method:
    """With the builder's parameters behind `self`, for `help` and editors."""
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown: Any = method
    shown.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])
    return method
