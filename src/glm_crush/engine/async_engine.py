"""The engine for event loops: it steps in a thread of its own and hands deltas to coroutines.

Above: `serving`. Below: `Engine`, which only that thread touches. Nothing polls: commands wake the thread through
a condition, and each step wakes each event loop at most once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from glm_crush.engine.closing import close_at_exit
from glm_crush.engine.engine import Engine
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import EngineError, OverloadedError
from glm_crush.types import SamplingParams

__all__ = ["AsyncEngine"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Stream:
    """One request on its way to one coroutine.

    The engine's thread owns `num_open` (replies that have not ended); the event loop owns the rest.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    priority: int
    loop: asyncio.AbstractEventLoop
    num_open: int
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


_Delivery = tuple[_Stream, RequestDelta | None, Exception | None]


def _put_all(deliveries: list[_Delivery]) -> None:
    for stream, delta, error in deliveries:
        stream.put(delta, error)


class AsyncEngine:
    """Owns an engine and the thread that steps it, from construction until `close`.

    When nothing has come for `idle_check_seconds`, the engine's books are checked.
    """

    def __init__(self, engine: Engine, *, idle_check_seconds: float = 1.0) -> None:
        self._engine = engine
        self._idle_check_seconds = idle_check_seconds
        self._condition = threading.Condition()  # guards the next four
        self._arrivals: list[_Stream] = []
        self._departures: list[_Stream] = []
        self._failure: EngineError | None = None
        self._closing = False
        self._streams: dict[str, _Stream] = {}  # only the engine's thread uses it
        self._thread = threading.Thread(target=self._run, name="glm-engine", daemon=True)
        self._thread.start()
        close_at_exit(self)

    @property
    def is_alive(self) -> bool:
        """Whether new requests can be answered."""
        return self._failure is None and not self._closing

    @property
    def metrics(self) -> EngineMetrics:
        """Counters that the engine's thread goes on changing."""
        return self._engine.metrics

    @property
    def num_running(self) -> int:
        return len(self._engine.scheduler.running)

    @property
    def num_waiting(self) -> int:
        return len(self._engine.scheduler.waiting) + len(self._arrivals)

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache in use."""
        return self._engine.scheduler.cache_usage

    async def submit(
        self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams, *, priority: int = 0
    ) -> AsyncGenerator[RequestDelta, None]:
        """Queue a request and yield what each step adds to it; closing the generator aborts the request.

        Raises:
            RequestError, OverloadedError: the request was refused, before anything was yielded.
            EngineError: the engine has stopped, perhaps in the middle of the reply.
        """
        loop = asyncio.get_running_loop()
        stream = _Stream(request_id, prompt_token_ids, params, priority, loop, num_open=params.n)
        self._post(stream)
        num_open = params.n
        try:
            while num_open:
                for delta in await stream.take():
                    if delta.error is not None:
                        raise delta.error
                    num_open -= delta.finish_reason is not None
                    yield delta
        finally:
            if num_open and stream.error is None:
                with self._condition:
                    self._departures.append(stream)
                    self._condition.notify()

    def close(self) -> None:
        """Stop the thread once its step is done; requests that are not finished end with EngineError."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _post(self, stream: _Stream) -> None:
        """Put a request where the engine's thread finds it before its next step; a full queue refuses at once."""
        max_queue_size = self._engine.scheduler.limits.max_queue_size
        with self._condition:
            if self._failure is not None:
                raise EngineError(str(self._failure)) from self._failure
            if self._closing:
                raise EngineError("The engine has been closed.")
            if self.num_waiting >= max_queue_size:
                raise OverloadedError(
                    f"{self.num_waiting} requests are waiting and the queue holds {max_queue_size}; "
                    "try again later or raise max_queue_size"
                )
            self._arrivals.append(stream)
            self._condition.notify()

    def _run(self) -> None:
        """The engine's thread."""
        try:
            while self._obey():
                self._deliver([(self._streams[d.request_id], d, None) for d in self._engine.step()])
            self._end_all(EngineError("The engine was closed before the request was finished."))
            self._engine.abort_all()
        except Exception as error:  # noqa: BLE001 - every waiting request is told; nobody waits for a dead thread
            _log.error("the engine stopped", exc_info=error)
            self._end_all(error if isinstance(error, EngineError) else EngineError(f"The engine stopped: {error!r}"))

    def _obey(self) -> bool:
        """Wait until there is something to compute, and take in what was posted; False when closing."""
        idle_seconds: float | None = self._idle_check_seconds
        while True:
            with self._condition:
                woken = self._condition.wait_for(self._has_news, idle_seconds)
                if self._closing:
                    return False
                arrivals, departures = self._arrivals[:], self._departures[:]
                self._arrivals.clear()
                self._departures.clear()
            if not woken:
                self._engine.check_integrity()
                idle_seconds = None  # once is enough until there is work again
            for stream in arrivals:
                self._add(stream)
            for stream in departures:
                # Only if the id is this stream's: one refused as a duplicate must not end the other.
                if self._streams.get(stream.request_id) is stream:
                    self._abort(stream)
            if self._engine.has_unfinished:
                return True

    def _has_news(self) -> bool:
        return bool(self._arrivals or self._departures or self._closing or self._engine.has_unfinished)

    def _add(self, stream: _Stream) -> None:
        try:
            self._engine.add_request(
                stream.prompt_token_ids, stream.params, request_id=stream.request_id, priority=stream.priority
            )
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this request is its caller's to see
            self._deliver([(stream, None, error)])
        else:
            self._streams[stream.request_id] = stream

    def _abort(self, stream: _Stream) -> None:
        del self._streams[stream.request_id]
        self._engine.abort(stream.request_id)

    def _deliver(self, deliveries: list[_Delivery]) -> None:
        """Wake each event loop once with everything that is new for it."""
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Delivery]] = defaultdict(list)
        for delivery in deliveries:
            stream, delta, _ = delivery
            by_loop[stream.loop].append(delivery)
            if delta is not None and delta.finish_reason is not None:
                stream.num_open -= 1
                if stream.num_open == 0:
                    del self._streams[stream.request_id]
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, items)
            except RuntimeError:  # the loop is closed: nobody is left to read these
                for stream in {stream for stream, _, _ in items} & set(self._streams.values()):
                    self._abort(stream)

    def _end_all(self, failure: EngineError) -> None:
        """Tell every request that is queued or running; from now on `submit` raises."""
        with self._condition:
            self._failure = failure
            streams = [*self._streams.values(), *self._arrivals]
            self._arrivals.clear()
        self._streams.clear()
        self._deliver([(stream, None, failure) for stream in streams])
