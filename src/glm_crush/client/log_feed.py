"""The server's log, live, over its WebSocket.

Above: the two clients, `glm logs`. Below: websockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from glm_crush.client.refusals import decoded, refusal
from glm_crush.client.result import Result
from glm_crush.client.wire import ConnectionOptions, is_loopback
from glm_crush.errors import GlmError, ProtocolError, UnreachableError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection as AsyncConnection
    from websockets.sync.client import ClientConnection

__all__ = ["AsyncLogFeed", "LogFeed", "LogLine"]

Level = Literal["debug", "info", "warning", "error"]

# Whoever leaves wants no more lines, and the server's farewell stands behind those it has sent.
_FAREWELL_SECONDS = 1.0


class LogLine(Result, frozen=True):
    """One line; `lost` lines before it came faster than they were read."""

    time: float
    level: str
    message: str
    request_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    milliseconds: int | None = None
    lost: int = 0


class _Message(Result, frozen=True):
    type: str
    line: LogLine | None = None
    recent: int = 0
    status: int = 500
    error: Mapping[str, Any] | None = None


class LogFeed(Iterator[LogLine]):
    """Lines as the server writes them, for keys with the scope admin.

    with client.logs(level="warning") as lines:
        for line in lines:
            print(line.message)
    """

    def __init__(self, options: ConnectionOptions, level: Level, recent: int = 0) -> None:
        self._options = options
        self._level = level
        self._recent = recent
        self.num_recent = 0
        self._open = ExitStack()
        self._socket: ClientConnection | None = None

    def __enter__(self) -> Self:
        """Connect; lines from now on are heard. Raises the server's refusal as a GlmError."""
        self._connected()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __next__(self) -> LogLine:
        return _line(self._read(self._connected()), self._options)

    def close(self) -> None:
        """Hear no more."""
        self._open.close()

    def _connected(self) -> ClientConnection:
        if self._socket is None:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect

            try:
                socket = self._open.enter_context(connect(**_arguments(self._options)))
            except (OSError, WebSocketException) as failure:
                raise _refused(failure, self._options) from failure
            socket.send(_subscription(self._level, self._recent))
            self.num_recent = _subscribed(self._read(socket), self._options)
            self._socket = socket
        return self._socket

    def _read(self, socket: ClientConnection) -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            return socket.recv()
        except ConnectionClosed as failure:
            raise _ended(failure, self._options) from failure


class AsyncLogFeed(AsyncIterator[LogLine]):
    """Lines as the server writes them, for keys with the scope admin.

    async with client.logs(level="warning") as lines:
        async for line in lines:
            print(line.message)
    """

    def __init__(self, options: ConnectionOptions, level: Level, recent: int = 0) -> None:
        self._options = options
        self._level = level
        self._recent = recent
        self.num_recent = 0
        self._open = AsyncExitStack()
        self._socket: AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        """Connect; lines from now on are heard. Raises the server's refusal as a GlmError."""
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def __anext__(self) -> LogLine:
        return _line(await self._read(await self._connected()), self._options)

    async def close(self) -> None:
        """Hear no more."""
        await self._open.aclose()

    async def _connected(self) -> AsyncConnection:
        if self._socket is None:
            from websockets.asyncio.client import connect
            from websockets.exceptions import WebSocketException

            try:
                socket = await self._open.enter_async_context(connect(**_arguments(self._options)))
            except (OSError, WebSocketException) as failure:
                raise _refused(failure, self._options) from failure
            await socket.send(_subscription(self._level, self._recent))
            self.num_recent = _subscribed(await self._read(socket), self._options)
            self._socket = socket
        return self._socket

    async def _read(self, socket: AsyncConnection) -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            return await socket.recv()
        except ConnectionClosed as failure:
            raise _ended(failure, self._options) from failure


def _arguments(options: ConnectionOptions) -> dict[str, Any]:
    """Of both libraries' `connect`."""
    secure = options.url.startswith("https")
    tls = {"ssl": options.tls_context()} if secure else {}
    return {
        "uri": f"ws{options.url.removeprefix('http')}/v1/ws",
        "additional_headers": options.request_headers(),
        "open_timeout": options.connect_seconds,
        "close_timeout": _FAREWELL_SECONDS,
        "max_size": None,
        "proxy": None if is_loopback(options.url) else True,
        **tls,
    }


def _subscription(level: Level, recent: int) -> str:
    wanted = {"recent": recent} if recent else {}
    return msgspec.json.encode({"type": "logs", "level": level, **wanted}).decode()


def _message(text: str | bytes) -> _Message:
    message = decoded(text, _Message, "message of its log")
    if message.error is not None:
        raise refusal(message.status, {}, msgspec.json.encode({"error": message.error}))
    return message


def _subscribed(text: str | bytes, options: ConnectionOptions) -> int:
    """Number of lines from before that come first."""
    message = _message(text)
    if message.type != "logs":
        raise ProtocolError(f"{options.url} did not confirm that it sends its log")
    return message.recent


def _line(text: str | bytes, options: ConnectionOptions) -> LogLine:
    line = _message(text).line
    if line is None:
        raise ProtocolError(f"{options.url} sent something else than a line of its log: {text[:200]!r}")
    return line


def _refused(failure: Exception, options: ConnectionOptions) -> GlmError:
    from websockets.exceptions import InvalidStatus

    if isinstance(failure, InvalidStatus):
        response = failure.response
        headers = {name.lower(): value for name, value in response.headers.raw_items()}
        return refusal(response.status_code, headers, bytes(response.body or b""))
    return UnreachableError(
        f"no server answers at {options.url} ({failure}); start one with glm serve, or name another with url, --url or "
        "GLM_CLIENT_URL"
    )


def _ended(failure: Exception, options: ConnectionOptions) -> GlmError:
    return UnreachableError(f"{options.url} ended the connection: {failure}")
