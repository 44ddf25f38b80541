"""Replies that are read as they come, in the two ways of waiting.

Above: the clients' `stream_...` methods. Below: the transports, and a reader for each kind of stream. Whoever stops
reading closes the connection, and the server stops computing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx2

from glm_crush.client.async_transport import AsyncTransport
from glm_crush.client.call import Pieces, StreamCall, StreamReader
from glm_crush.client.lines import LineCutter
from glm_crush.client.sync_transport import SyncTransport
from glm_crush.client.wire import ConnectionOptions, broken
from glm_crush.errors import GlmError, ProtocolError, UnreachableError

__all__ = ["AsyncStream", "Stream"]

Event = TypeVar("Event")
Whole = TypeVar("Whole")

_LARGEST_EVENT = 64 * 2**20  # the last event of a response holds all of it


class Stream(Iterator[Event], Generic[Event, Whole]):
    """A reply that is read as it comes.

        with client.stream_chat("Hello") as stream:
            for delta in stream:
                print(delta.content, end="")
        print(stream.reply.usage)

    Nothing is sent before the block is entered or the first event is asked for. At the end of the block the connection
    is closed, and the server stops computing what nobody will read.
    """

    def __init__(self, transport: SyncTransport, call: StreamCall[Event, Whole]) -> None:
        self._transport = transport
        self._call = call
        self._reader = call.reader()
        self._is_closed = False
        self._response: httpx2.Response | None = None
        self._events: Generator[Event, None, None] | None = None

    @property
    def reply(self) -> Whole:
        """What has come so far, as one value: the whole reply, once all of it has been read."""
        return self._reader.whole()

    def __enter__(self) -> Self:
        """Send the request. Raises the server's refusal as a GlmError."""
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __next__(self) -> Event:
        if self._is_closed:
            raise StopIteration
        return next(self._open())

    def close(self) -> None:
        """Stop reading; there are no more events then. May be called from another thread."""
        self._is_closed = True
        if self._response is not None:
            self._response.close()

    def _open(self) -> Generator[Event, None, None]:
        if self._events is None:
            self._response = self._transport.open(self._call)
            self._events = _events(self._response, self._call.pieces, self._reader, self._transport.options)
        return self._events


class AsyncStream(AsyncIterator[Event], Generic[Event, Whole]):
    """A reply that is read as it comes.

        async with client.stream_chat("Hello") as stream:
            async for delta in stream:
                print(delta.content, end="")
        print(stream.reply.usage)

    Otherwise as `Stream`.
    """

    def __init__(self, transport: AsyncTransport, call: StreamCall[Event, Whole]) -> None:
        self._transport = transport
        self._call = call
        self._reader = call.reader()
        self._is_closed = False
        self._response: httpx2.Response | None = None
        self._events: AsyncGenerator[Event, None] | None = None

    @property
    def reply(self) -> Whole:
        """What has come so far, as one value: the whole reply, once all of it has been read."""
        return self._reader.whole()

    async def __aenter__(self) -> Self:
        """Send the request. Raises the server's refusal as a GlmError."""
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def __anext__(self) -> Event:
        if self._is_closed:
            raise StopAsyncIteration
        return await anext(await self._open())

    async def close(self) -> None:
        """Stop reading; there are no more events then. May be called from another task."""
        self._is_closed = True
        if self._response is not None:
            await self._response.aclose()
        if self._events is not None:
            with suppress(RuntimeError):  # another task is reading; the connection's end is its end
                await self._events.aclose()

    async def _open(self) -> AsyncGenerator[Event, None]:
        if self._events is None:
            self._response = await self._transport.open(self._call)
            self._events = _async_events(self._response, self._call.pieces, self._reader, self._transport.options)
        return self._events


# Not methods: a generator that held its stream would keep it, and the connection, alive after a loop that was left.


def _events(
    response: httpx2.Response, pieces: Pieces, reader: StreamReader[Event, Whole], options: ConnectionOptions
) -> Generator[Event, None, None]:
    try:
        if pieces == "events":
            for event in httpx2.EventSource(response, _LARGEST_EVENT):
                yield from reader.read(event.data)
        else:
            lines = LineCutter()
            for data in response.iter_bytes():
                for line in lines.cut(data):
                    yield from reader.read(line)
            for line in lines.rest():
                yield from reader.read(line)
    except (httpx2.HTTPError, httpx2.StreamError) as failure:
        raise _cut_off(failure, response, options) from failure
    finally:
        response.close()
    _check_complete(reader, options)


async def _async_events(
    response: httpx2.Response, pieces: Pieces, reader: StreamReader[Event, Whole], options: ConnectionOptions
) -> AsyncGenerator[Event, None]:
    try:
        if pieces == "events":
            async for event in httpx2.EventSource(response, _LARGEST_EVENT):
                for found in reader.read(event.data):
                    yield found
        else:
            lines = LineCutter()
            async for data in response.aiter_bytes():
                for line in lines.cut(data):
                    for found in reader.read(line):
                        yield found
            for line in lines.rest():
                for found in reader.read(line):
                    yield found
    except (httpx2.HTTPError, httpx2.StreamError) as failure:
        raise _cut_off(failure, response, options) from failure
    finally:
        await response.aclose()
    _check_complete(reader, options)


def _cut_off(failure: Exception, response: httpx2.Response, options: ConnectionOptions) -> GlmError:
    if isinstance(failure, httpx2.SSEError):
        error: GlmError = ProtocolError(f"{options.url} answers with something else than a stream: {failure}")
    elif isinstance(failure, httpx2.HTTPError):
        error = broken(failure, options)
    else:
        error = UnreachableError(f"the stream from {options.url} was closed before its end")
    error.request_id = response.headers.get("x-request-id")
    return error


def _check_complete(reader: StreamReader[Any, Any], options: ConnectionOptions) -> None:
    if not reader.is_complete:
        raise UnreachableError(f"the stream from {options.url} ended before its last event; the reply is not whole")
