"""One response being made: the model's turn becomes events and an object, and whoever wants may follow.

Above: `service.py`. Below: the turn, the writer, the store. A response that is stored is stored before its last event
is sent: what a client has been told is completed can be retrieved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

from glm_crush.errors import OverloadedError, RequestError
from glm_crush.serving.chat_turn import ChatTurn
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.admission import Admission, acting
from glm_crush.serving.openai.responses.writer import Event, ResponseWriter, Status, encode_event

__all__ = ["Finish", "Run"]

Finish = Callable[[dict[str, Any], list[bytes] | None], Any]
"""Stores the object and, if they were kept, the events; awaited."""

_log = logging.getLogger("glm_crush.serving")


class Run:
    """One response.

    Args:
        turn: prepared, not begun.
        writer: of a fresh response object.
        held: what to let go of at the end.
        finish: stores how it ended; None = it is not stored.
        keeps_events: followers may come.
        waits: the engine's queue being full is a reason to wait, not to fail.
        now: the time.

    Attributes:
        refusal: why the turn was refused before it began, if it was.
        left_to_others: it stops here without an end: another server will go on.
    """

    def __init__(
        self,
        turn: ChatTurn,
        writer: ResponseWriter,
        held: AsyncExitStack,
        *,
        finish: Finish | None,
        keeps_events: bool,
        waits: bool,
        now: Callable[[], float],
    ) -> None:
        self.body = writer.body
        self.keeps_events = keeps_events
        self.refusal: Exception | None = None
        self.left_to_others = False
        self.begun = asyncio.Event()
        self._turn = turn
        self._writer = writer
        self._held = held
        self._finish = finish
        self._waits = waits
        self._now = now
        self._is_filtered = False
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self._entered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, admission: Admission | None = None) -> None:
        """Begin, on behalf of whoever calls, or of an admission of its own."""
        with contextlib.nullcontext() if admission is None else acting(admission):
            self._task = asyncio.create_task(self._work())
        self._task.add_done_callback(lambda _: self._news.set())

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self._task is not None and self._task.done()

    async def wait(self) -> None:
        """Wait for the end. Raises the refusal, if the turn was refused."""
        assert self._task is not None
        await asyncio.shield(self._task)
        if self.refusal is not None:
            raise self.refusal

    async def ended(self) -> None:
        """Wait for the end, whatever it is."""
        assert self._task is not None
        await asyncio.wait({self._task})

    async def let_go(self) -> None:
        """Give up before it has started."""
        await self._held.aclose()

    async def cancel(self) -> None:
        """End it here; it is stored as cancelled unless it has ended."""
        assert self._task is not None
        await self._entered.wait()  # a task that is cancelled before it has begun would not end in order
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """Encoded events as they come, beginning behind the one with this number."""
        position = after + 1
        while True:
            news, is_done = self._news, self.is_done
            if position < len(self._events):
                pending = self._events[position:]
                position += len(pending)
                yield b"".join(pending)
            elif is_done:
                return
            else:
                await news.wait()

    async def _work(self) -> None:
        self._entered.set()
        async with self._held:
            self._emit(self._writer.begin())
            if not self._waits:
                self._emit(self._writer.start())
            status: Status
            error: dict[str, str] | None = None
            try:
                status = await self._generate()
            except asyncio.CancelledError:
                status = "cancelled"
            except Exception as failure:  # noqa: BLE001 - told to the client, and logged unless it is the client's own
                status, error = "failed", _error(failure)
                if not self.begun.is_set() and not self._waits:  # the client of one that waits has its id by now
                    self.refusal = failure
                if error_reply(failure).status == 500:
                    _log.error("response %s failed", self.body["id"], exc_info=failure)
            if not self.left_to_others:
                await self._close(status, error)

    async def _generate(self) -> Status:
        """The model's turn; how it ended."""
        reason = None
        while reason is None:
            deltas = self._turn.deltas(whole=not self.keeps_events)
            try:
                async for delta in deltas:
                    if not self.begun.is_set():
                        self.begun.set()
                        self._emit(self._writer.start() if self._waits else ())
                    self._emit(self._writer.push(delta))
                    reason = delta.finish_reason or reason
            except OverloadedError as error:
                if not self._waits or self.begun.is_set():
                    raise
                await asyncio.sleep(error.retry_after_seconds)
            finally:
                await deltas.aclose()
        status: Status = "incomplete" if reason in ("length", "content_filter") else "completed"
        self._is_filtered = reason == "content_filter"
        self._emit(self._writer.end_items("completed" if status == "completed" else "incomplete"))
        return status

    async def _close(self, status: Status, error: dict[str, str] | None) -> None:
        """Store the end, then tell it."""
        last = self._writer.close(
            status,
            completed_at=self._now(),
            usage=self._turn.usage if self.begun.is_set() else None,
            num_reasoning_tokens=self._turn.num_reasoning_tokens,
            more_usage=self._turn.more_usage,
            error=error,
            is_filtered=self._is_filtered,
        )
        encoded = encode_event(last)
        if self._finish is not None and self.refusal is None:
            events = [*self._events, encoded] if self.keeps_events else None
            storing = asyncio.ensure_future(self._finish(self.body, events))
            while not storing.done():
                with contextlib.suppress(asyncio.CancelledError):  # an end is stored, whoever goes away meanwhile
                    await asyncio.wait({storing})
            try:
                await storing
            except Exception as failure:  # noqa: BLE001 - what is not stored is not completed; the client is told
                _log.error("response %s could not be stored", self.body["id"], exc_info=failure)
                self.refusal = failure
                self.body |= {"status": "failed", "error": _error(failure)}
                encoded = encode_event({**last, "type": "response.failed"})
        self.begun.set()
        self._tell([encoded])

    def _emit(self, events: Iterable[Event]) -> None:
        if self.keeps_events:
            self._tell([encode_event(event) for event in events])
        else:
            for _ in events:  # the object grows as they are made
                pass

    def _tell(self, encoded: list[bytes]) -> None:
        self._events += encoded
        self._news.set()
        self._news = asyncio.Event()


def _error(failure: Exception) -> dict[str, str]:
    code = "invalid_prompt" if isinstance(failure, RequestError) else "server_error"
    return {"code": code, "message": error_reply(failure).message}
