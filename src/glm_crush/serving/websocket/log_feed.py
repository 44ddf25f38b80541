"""The server's log for those who watch it live.

Above: `connection`. Below: `logging`. A subscriber that does not keep up loses the oldest lines and is told how many:
nobody who logs ever waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["LogFeed", "LogSubscription"]

_MOST_LINES = 1000
_MOST_RECENT = 1000
_FACTS = ("request_id", "method", "path", "status", "milliseconds")


class LogSubscription:
    """Lines for one subscriber, in its event loop."""

    def __init__(self, level: int) -> None:
        self.level = level
        self._loop = asyncio.get_running_loop()
        self._lines: deque[dict[str, Any]] = deque(maxlen=_MOST_LINES)
        self._num_lost = 0
        self._news = asyncio.Event()

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Lines as they come; the first after a loss says how many are missing."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._lines:
                line = self._lines.popleft()
                lost, self._num_lost = self._num_lost, 0
                yield line | {"lost": lost} if lost else line

    def offer(self, line: dict[str, Any]) -> None:
        """Called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, line)
        except RuntimeError:  # the loop is closed, and with it the connection
            return

    def _put(self, line: dict[str, Any]) -> None:
        self._num_lost += len(self._lines) == _MOST_LINES
        self._lines.append(line)
        self._news.set()


class LogFeed(logging.Handler):
    """Hands every line of the root logger to the subscribers that want its level, and keeps the newest ones."""

    def __init__(self) -> None:
        super().__init__()
        self._subscriptions: set[LogSubscription] = set()
        self._recent: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_MOST_RECENT)
        self._num_listeners = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep lines, until the block ends."""
        if self._num_listeners == 0:
            logging.getLogger().addHandler(self)
        self._num_listeners += 1
        try:
            yield
        finally:
            self._num_listeners -= 1
            if self._num_listeners == 0:
                logging.getLogger().removeHandler(self)

    @contextmanager
    def subscribed(self, level: str, recent: int = 0) -> Iterator[tuple[LogSubscription, list[dict[str, Any]]]]:
        """A subscription, until the block ends; and the newest of the lines before it, at most so many."""
        subscription = LogSubscription(logging.getLevelNamesMapping()[level.upper()])
        with self.listening():
            self.acquire()  # between the lines before and those after it none is lost
            try:
                kept = [line for number, line in self._recent if number >= subscription.level]
                self._subscriptions.add(subscription)
            finally:
                self.release()
            try:
                yield subscription, kept[max(0, len(kept) - recent) :]
            finally:
                self._subscriptions.discard(subscription)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, from any thread, one at a time."""
        line = {"time": record.created, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in _FACTS if hasattr(record, name)}
        self._recent.append((record.levelno, line))
        for subscription in list(self._subscriptions):
            if record.levelno >= subscription.level:
                subscription.offer(line)
