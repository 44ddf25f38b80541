"""The child's side: an engine that is fed and read through a socket, on one thread.

Above: `__main__`. Below: `Engine`. Between two steps it takes what the parent has sent; after each step it sends one
frame with all deltas. A parent that does not read makes the send wait, so the engine never runs ahead of it. Only
grammars are compiled and adapters read beside the steps, in threads of their own.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from array import array
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from glm_crush.engine.adapters import PreparedAdapter
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.engine import Engine
from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.engine.output import RequestDelta
from glm_crush.engine.process.awaited_grammars import AwaitedGrammars
from glm_crush.engine.process.beside import Beside, error_of
from glm_crush.engine.process.wire import (
    Abort,
    Checked,
    CheckGrammar,
    Failed,
    FrameReader,
    FromChild,
    FromParent,
    LoadAdapter,
    Ready,
    Refused,
    Start,
    Status,
    Step,
    Submit,
    UnloadAdapter,
    WireError,
    decode_from_parent,
    encode,
)
from glm_crush.errors import ConfigError, GlmError

__all__ = ["EngineHost", "HostedEngine"]

_log = logging.getLogger(__name__)

_STATUS_SECONDS = 0.25  # while it computes
_IDLE_SECONDS = 1.0  # between signs of life while it does not
_READ_BYTES = 2**18


class HostedEngine(Protocol):
    """What a `make` function returns; `BuiltEngine` is one."""

    @property
    def engine(self) -> Engine:
        """Steps the requests."""

    @property
    def cache(self) -> CachePlan:
        """What the parent is told about its size."""

    @property
    def grammars(self) -> GrammarCompiler | None:
        """What replies can be held to."""


class _ParentGoneError(Exception):
    pass


class EngineHost:
    """Builds the engine that the parent asks for and serves it until told to stop, or until the parent is gone.

    Args:
        link: the child's end of the socket pair; blocking.
    """

    def __init__(self, link: socket.socket, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._reader = FrameReader()
        self._beside = Beside()
        self._poll = select.poll()
        for source in (link, self._beside.bell):
            self._poll.register(source, select.POLLIN)
        self._status_due = 0.0
        self._adapters: dict[str, str] = {}  # those that the parent starts it with
        self._closing = False

    def run(self) -> int:
        """The whole life of the child; returns its exit status."""
        try:
            hosted = self._build()
            if hosted is None:
                return 1
            self._engine = hosted.engine
            self._awaited = AwaitedGrammars(
                hosted.grammars,
                self._beside,
                add=self._add,
                refuse=lambda request_id, error: self._send(Refused(request_id, error)),
                default_deadline_seconds=self._engine.deadlines.default_seconds,
                max_waiting=self._engine.scheduler.limits.max_queue_size,
                clock=self._clock,
            )
            self._load_again()
            self._send(Ready(hosted.cache))
            try:
                while self._obey():
                    self._send_step(self._engine.step())
            finally:
                self._engine.close()
                self._beside.close()
        except _ParentGoneError:
            return 0
        except Exception as error:  # noqa: BLE001 - the parent is told, and starts another
            if not isinstance(error, ConfigError):
                _log.error("the engine stopped", exc_info=error)  # the parent gets the message alone
            self._link.settimeout(1.0)
            self._link.sendall(encode(Failed(WireError.of(error))))
            return 1
        return 0

    def _build(self) -> HostedEngine | None:
        messages: list[FromParent] = []
        while not messages:
            messages = self._receive()
        start = messages[0]
        if not isinstance(start, Start):
            return None  # the parent has changed its mind
        self._adapters = start.adapters
        module, _, function = start.make.partition(":")
        hosted: HostedEngine = getattr(import_module(module), function)(**start.arguments)
        return hosted

    def _obey(self) -> bool:
        """Take what has come; wait for it when there is nothing to compute. False when closing."""
        idle = False
        while not self._closing:
            busy = self._engine.has_unfinished
            events = dict(self._poll.poll(0 if busy else self._patience_milliseconds()))
            self._awaited.end_expired()
            if self._beside.bell.fileno() in events:
                self._beside.go_on()
            if self._link.fileno() in events:
                for message in self._receive():
                    self._take(message)
            if busy:
                return not self._closing
            if not events:
                if not idle:
                    self._engine.check_integrity()
                idle = True  # once is enough until there is work again
                self._send_step([])
        return False

    def _receive(self) -> list[FromParent]:
        data = self._link.recv(_READ_BYTES)
        if not data:
            raise _ParentGoneError
        return [decode_from_parent(body) for body in self._reader.feed(data)]

    def _take(self, message: FromParent) -> None:
        match message:
            case Submit():
                self._awaited.take(message)
            case Abort(request_id):
                self._awaited.forget(request_id)
                self._engine.abort(request_id)
            case CheckGrammar(number, structured):
                self._awaited.compile(structured, lambda error: self._send(Checked(number, error)))
            case LoadAdapter(number, name, path):
                self._load_adapter(number, name, path)
            case UnloadAdapter(number, name):
                self._send(Checked(number, error_of(lambda: self._engine.unload_adapter(name))))
            case _:
                self._closing = True

    def _add(self, submit: Submit, waited_seconds: float) -> None:
        prompt = array("i")
        prompt.frombytes(submit.prompt)
        try:
            self._engine.add_request(
                prompt,
                submit.params,
                request_id=submit.request_id,
                priority=submit.priority,
                cache_salt=submit.cache_salt,
                tenant=submit.tenant,
                deadline_seconds=submit.deadline_seconds,
                waited_seconds=waited_seconds,
            )
        except GlmError as error:
            self._send(Refused(submit.request_id, WireError.of(error)))

    def _load_adapter(self, number: int, name: str, path: str) -> None:
        prepared: list[PreparedAdapter] = []

        def install(error: WireError | None) -> None:
            error = error or error_of(lambda: self._engine.adapters.install(prepared[0]))
            self._send(Checked(number, error))

        self._beside.start("adapter", lambda: prepared.append(self._engine.adapters.prepare(name, path)), install)

    def _load_again(self) -> None:
        """Load the adapters that the child before had; one that has gone is missed by its requests alone."""
        for name, path in self._adapters.items():
            try:
                self._engine.adapters.install(self._engine.adapters.prepare(name, path))
            except GlmError as error:
                _log.error("the adapter %s cannot be loaded again: %s", name, error)

    def _patience_milliseconds(self) -> int:
        """How long an idle engine waits for news."""
        nearest = self._awaited.seconds_to_deadline()
        return math.ceil(1000 * (_IDLE_SECONDS if nearest is None else min(_IDLE_SECONDS, nearest)))

    def _send_step(self, deltas: list[RequestDelta]) -> None:
        now = self._clock()
        if not deltas and now < self._status_due and self._engine.has_unfinished:
            return
        status = None
        if now >= self._status_due or not self._engine.has_unfinished:
            self._status_due = now + _STATUS_SECONDS
            scheduler = self._engine.scheduler
            num_waiting = len(scheduler.waiting) + len(self._awaited)
            status = Status(len(scheduler.running), num_waiting, scheduler.cache_usage, self._engine.metrics)
        self._send(Step(deltas, status))

    def _send(self, message: FromChild) -> None:
        try:
            self._link.sendall(encode(message))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ParentGoneError from error
