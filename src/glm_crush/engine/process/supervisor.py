"""The thread that keeps an engine process alive and carries requests to it and deltas back.

Above: `EngineProcess`, which posts from event loops. Below: `ChildProcess`, `OpenRequests`. All state but the mailbox
is this thread's own; others read the attributes, which are replaced and never changed.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.metrics import EngineMetrics, sum_of_metrics
from glm_crush.engine.process.child import ChildGoneError, ChildProcess
from glm_crush.engine.process.mailbox import Mailbox
from glm_crush.engine.process.open_questions import OpenQuestions
from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.engine.process.open_requests import OpenRequests
from glm_crush.engine.process.restarts import RestartPolicy
from glm_crush.engine.process.spawned_child import SpawnedChild
from glm_crush.engine.process.wire import (
    Abort,
    Checked,
    Close,
    Failed,
    FrameError,
    FromChild,
    Ready,
    Refused,
    Start,
    Status,
    Step,
)
from glm_crush.engine.stream import Delivery, deliver
from glm_crush.errors import EngineError, GlmError

__all__ = ["Supervision", "Supervisor"]

_log = logging.getLogger(__name__)

_LOAD_SECONDS = 600.0  # a large model from a slow disk
_PATIENCE_SECONDS = 1.0  # with a child that is ending by itself
_CLOSE_SECONDS = 5.0
_TICK_SECONDS = 1.0
_MANY_FAULTS = 100  # pages from disk while nothing is heard: it is reading its model


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How patient the supervisor is.

    Attributes:
        hang_seconds: a child without a sign of life for so long is ended. wait_seconds: how long a request waits for a
            child to come back. max_restarts_per_minute: beyond it requests are refused until the minute is over.
    """

    hang_seconds: float = 60.0
    wait_seconds: float = 10.0
    max_restarts_per_minute: int = 10


class Supervisor:
    """Owns the child and the open requests, from construction until `close`.

    Attributes:
        first_start: what the first child says of its cache, or why it could not start.
        status: of the present child. past_metrics: of those before it. next_start: when there will be a child, while
            there is none. num_unsent: requests that no child has.
    """

    def __init__(
        self,
        start: Start,
        supervision: Supervision,
        spawned: SpawnedChild | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mailbox = Mailbox()
        self.first_start: Future[CachePlan] = Future()
        self.status = Status(0, 0, 0.0, EngineMetrics())
        self.past_metrics = EngineMetrics()
        self.num_unsent = 0
        self.pid: int | None = None
        self.is_running = False
        self.next_start: float | None = None
        self._start = start
        self._spawned = spawned
        self._supervision = supervision
        self._clock = clock
        self._policy = RestartPolicy(max_per_minute=supervision.max_restarts_per_minute)
        self._child: ChildProcess | None = None
        self._requests = OpenRequests()
        self._questions = OpenQuestions()
        self._last_heard = self._running_since = clock()
        self._num_faults = 0
        self._thread = threading.Thread(target=self._run, name="glm-supervisor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the child; open requests end with EngineError. May be called twice."""
        self.mailbox.ask_to_close()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._start_child()
            while self._turn():
                self.num_unsent = self._requests.num_unsent
        except GlmError as error:  # it could not be loaded: whoever waits for the first start is told
            self._end(EngineError(str(error)), error)
        except Exception as error:  # noqa: BLE001 - whoever waits is told; nobody waits for a dead thread
            _log.error("the engine's supervisor stopped", exc_info=error)
            self._end(EngineError(f"The engine's supervisor stopped: {error!r}"))
        else:
            self._end(EngineError("The engine was closed before the request was finished."))

    def _turn(self) -> bool:
        """Wait for something to happen and see to it; False when closing."""
        child, now = self._child, self._clock()
        timeout = _TICK_SECONDS if self.next_start is None else min(_TICK_SECONDS, max(0.0, self.next_start - now))
        poll = select.poll()
        poll.register(self.mailbox.bell, select.POLLIN)
        if child is not None:
            poll.register(child.link, select.POLLIN | (select.POLLOUT if child.has_unsent else 0))
        events = dict(poll.poll(math.ceil(timeout * 1000)))
        if child is not None:
            happened = events.get(child.link.fileno(), 0)
            if happened & select.POLLOUT:
                child.flush()
            if happened & ~select.POLLOUT:
                self._read(child)
        if self.mailbox.bell.fileno() in events and not self._take_mail():
            return False
        self._keep_time()
        return True

    def _take_mail(self) -> bool:
        mail = self.mailbox.take()
        for request in mail.arrivals:
            self._deliver(self._requests.add(request))
        for question in mail.questions:
            self._send_question(self._questions.add(question))
        self._send_unsent()
        for request in mail.departures:
            self._abandon([request])
        return not mail.closing

    def _read(self, child: ChildProcess) -> None:
        try:
            messages = child.receive()
        except ChildGoneError:
            self._bury(child, "", patience_seconds=_PATIENCE_SECONDS)
            return
        except FrameError as error:
            self._bury(child, f"was not understood ({error}) and ")
            return
        self._last_heard = self._clock()
        for message in messages:
            if self._child is child:
                self._take(child, message)
        self._send_unsent()  # one may have waited for another to begin

    def _take(self, child: ChildProcess, message: FromChild) -> None:
        match message:
            case Step(deltas, status):
                self.status = status or self.status
                self._deliver(self._requests.absorb(deltas))
            case Refused(request_id, error):
                self._deliver(self._requests.refuse(request_id, error.exception()))
            case Checked(number, reason):
                self._questions.answer(number, reason)
            case Ready(cache):
                self._welcome(child, cache)
            case Failed(error):
                if not self.first_start.done():
                    child.end(_PATIENCE_SECONDS)
                    raise error.exception()
                self._bury(child, f"failed ({error.message}) and ", patience_seconds=_PATIENCE_SECONDS)

    def _start_child(self) -> None:
        try:
            child = ChildProcess(self._spawned)
        except OSError as error:  # no memory, process or file left: there may be in a while
            if not self.first_start.done():
                raise EngineError(f"no process can be started for the engine: {error}") from error
            now = self._clock()
            self.next_start = self._policy.next_start(now, lived_seconds=0.0)
            _log.error("the engine cannot be started (%s); again in %.1f s", error, self.next_start - now)
            return
        self._child, self._spawned, self.next_start = child, None, None
        self.pid, self._last_heard = child.pid, self._clock()
        child.send(Start(self._start.make, self._start.arguments, dict(self._questions.adapters)))

    def _welcome(self, child: ChildProcess, cache: CachePlan) -> None:
        """The child takes requests from now on."""
        self._running_since = self._clock()
        self.is_running = True
        if self.first_start.done():
            _log.warning("the engine is back as process %d", child.pid)
        else:
            self.first_start.set_result(cache)
        for number in self._questions:
            self._send_question(number)
        self._send_unsent()

    def _bury(self, child: ChildProcess, what: str, *, patience_seconds: float = 0.0) -> None:
        """Account for a child that died, and plan the next."""
        lived = self._clock() - self._running_since if self.is_running else 0.0
        self._child = None
        reason = f"The engine (process {child.pid}) {what}{child.end(patience_seconds)}"
        if not self.first_start.done():
            raise EngineError(f"{reason} while it loaded the model.")
        self.past_metrics = sum_of_metrics(self.past_metrics, self.status.metrics)
        self.status = Status(0, 0, 0.0, EngineMetrics())
        now = self._clock()
        # In this order: who sees that no child takes requests sees when the next one will.
        self.next_start = self._policy.next_start(now, lived_seconds=lived)
        self.is_running = False
        _log.error("%s; it is started again in %.1f s", reason, self.next_start - now)
        self._questions.after_death(reason)
        self._deliver(self._requests.after_death(reason, patience_until=now + self._supervision.wait_seconds))

    def _keep_time(self) -> None:
        now = self._clock()
        child = self._child
        if child is not None:
            limit = self._supervision.hang_seconds if self.is_running else _LOAD_SECONDS
            if now - self._last_heard > limit and not self._reads_its_model(child):
                self._bury(child, f"did nothing for {limit:.0f} s and ")
        elif self.next_start is not None and now >= self.next_start:
            self._start_child()
        if not self.is_running:
            wait = 0.0 if self.next_start is None else self.next_start - now
            self._deliver(self._requests.expire(now, retry_after_seconds=max(1.0, wait)))

    def _reads_its_model(self, child: ChildProcess) -> bool:
        """Whether a silent child waits for the disk rather than for itself."""
        before, self._num_faults = self._num_faults, child.num_major_faults()
        if self._num_faults - before < _MANY_FAULTS:
            return False
        self._last_heard = self._clock()
        return True

    def _send_unsent(self) -> None:
        if self._child is not None and self.is_running:
            for request in self._requests.take_unsent(self._clock()):
                self._child.send(request.submit)

    def _send_question(self, number: int) -> None:
        if self._child is not None and self.is_running:
            message = self._questions.ask(number)
            if message is not None:
                self._child.send(message)

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        abandoned = deliver(deliveries)
        if abandoned:
            self._abandon(self._requests.of_streams(abandoned))

    def _abandon(self, requests: Iterable[OpenRequest]) -> None:
        for request in requests:
            if self._requests.remove(request) and self._child is not None:
                self._child.send(Abort(request.submit.request_id))

    def _end(self, why: EngineError, load_error: GlmError | None = None) -> None:
        """Nothing is answered from here on."""
        # One that is still loading would not hear of it before it has loaded.
        patience_seconds = _CLOSE_SECONDS if self.is_running else 0.0
        self.is_running = False
        mail = self.mailbox.shut(why)
        for request in mail.arrivals:
            deliver(self._requests.add(request))
        deliver(self._requests.end_all(why))
        for question in mail.questions:
            self._questions.add(question)
        self._questions.end_all(why)
        if not self.first_start.done():
            self.first_start.set_exception(load_error or why)
        if self._child is not None:
            self._child.send(Close())
            self._child.end(patience_seconds)
        self.pid = None
