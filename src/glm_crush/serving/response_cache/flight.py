"""One computation with any number of listeners: whoever asks the same while it runs hears the same answer.

Above: `middleware`. Below: ASGI. The computation runs in a task of its own and goes on while anybody listens; when the
last one leaves, the application sees a disconnect, and aborts the generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from glm_crush.serving.middleware import Application, Message, Receive, Scope, Send

__all__ = ["Flight"]


class Flight:
    """A request on its way through the application.

    Args:
        on_complete: called with the content type and the body of a whole reply with status 200.
    """

    def __init__(
        self, app: Application, scope: Scope, body: bytes, *, on_complete: Callable[[str, bytes], None]
    ) -> None:
        self._app = app
        self._scope = scope
        self._body = body
        self._on_complete = on_complete
        self._messages: list[Message] = []
        self._listeners: set[asyncio.Event] = set()  # each is set when there is news
        self._deserted = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def can_be_joined(self) -> bool:
        """Whether a new listener hears the whole answer."""
        return not self._deserted.is_set() and self._error is None

    async def listen(self, send: Send, receive: Receive) -> None:
        """Pass the answer on from its beginning, until it ends or the listener leaves.

        Raises:
            Exception: what the application raised before its answer began; the caller makes an error body of it.
        """
        news = asyncio.Event()
        self._listeners.add(news)
        gone = asyncio.create_task(_disconnect(receive))
        gone.add_done_callback(lambda _: news.set())
        sent = 0
        try:
            while not gone.done():
                news.clear()
                if sent < len(self._messages):
                    await send(dict(self._messages[sent]))
                    sent += 1
                elif not self._ended:
                    await news.wait()
                elif self._error is not None:
                    raise self._error
                else:
                    return
        finally:
            gone.cancel()
            self._listeners.remove(news)
            if not self._listeners:
                self._deserted.set()

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive(), self._send)
        except Exception as error:  # noqa: BLE001 - every listener raises it
            self._error = error
        finally:
            self._ended = True
            self._tell()

    def _tell(self) -> None:
        for news in self._listeners:
            news.set()

    def _receive(self) -> Receive:
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            await self._deserted.wait()
            return {"type": "http.disconnect"}

        return receive

    async def _send(self, message: Message) -> None:
        self._messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._ended = True  # now, not when the application returns: a server takes a sent reply for a disconnect
            self._complete()
        self._tell()

    def _complete(self) -> None:
        """Hand over a reply that is whole and in order."""
        if self._deserted.is_set() or self._messages[0].get("status") != 200:
            return
        types = [value for name, value in self._messages[0].get("headers", ()) if name == b"content-type"]
        body = b"".join(message.get("body", b"") for message in self._messages[1:])
        self._on_complete(types[0].decode("latin-1") if types else "application/json", body)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
