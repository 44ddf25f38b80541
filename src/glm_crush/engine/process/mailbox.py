"""What event loops ask of the supervisor's thread, and the bell that wakes it."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.errors import EngineError
from glm_crush.types import StructuredOutput

__all__ = ["AdapterLoad", "AdapterUnload", "Mail", "Mailbox", "Question"]


@dataclass(frozen=True)
class AdapterLoad:
    """Make the LoRA adapter in a folder known by a name."""

    name: str
    path: str


@dataclass(frozen=True)
class AdapterUnload:
    """Forget it."""

    name: str


Asked = StructuredOutput | AdapterLoad | AdapterUnload
Question = tuple[Asked, Future[None]]


@dataclass
class Mail:
    """What has been asked since the last look; `closing` stays."""

    arrivals: list[OpenRequest] = field(default_factory=list)
    departures: list[OpenRequest] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    closing: bool = False


class Mailbox:
    """Takes in from any thread; one thread takes out, when `bell` is readable or whenever it likes."""

    def __init__(self) -> None:
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        self._lock = threading.Lock()  # guards all below
        self._mail = Mail()
        self._closed: EngineError | None = None

    def submit(self, request: OpenRequest) -> None:
        """Raises EngineError when nobody reads the mail any more."""
        with self._lock:
            self._check_open()
            self._mail.arrivals.append(request)
            self._ring()

    def abandon(self, request: OpenRequest) -> None:
        """Nobody reads the request's deltas any more."""
        with self._lock:
            self._mail.departures.append(request)
            self._ring()

    def ask(self, asked: Asked) -> Future[None]:
        """Have a grammar compiled or an adapter changed. Raises EngineError when nobody reads the mail any more."""
        future: Future[None] = Future()
        with self._lock:
            self._check_open()
            self._mail.questions.append((asked, future))
            self._ring()
        return future

    def ask_to_close(self) -> None:
        """The reader ends when it sees this."""
        with self._lock:
            self._mail.closing = True
            self._ring()

    def take(self) -> Mail:
        """Everything there is."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                self.bell.recv(2**16)
            mail, self._mail = self._mail, Mail(closing=self._mail.closing)
        return mail

    def shut(self, why: EngineError) -> Mail:
        """Take the last mail; from now on there is none."""
        mail = self.take()
        with self._lock:
            self._closed = why
            mail.arrivals += self._mail.arrivals
            mail.questions += self._mail.questions
            self.bell.close()
            self._rope.close()
        return mail

    def _check_open(self) -> None:
        if self._closed is not None:
            raise EngineError(str(self._closed)) from self._closed
        if self._mail.closing:
            raise EngineError("The engine has been closed.")

    def _ring(self) -> None:
        if self._closed is None:
            with contextlib.suppress(BlockingIOError):  # it has rung often enough
                self._rope.send(b"!")
