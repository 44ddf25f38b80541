"""The engine for plain calls: whoever waits for a reply steps it, and all who wait share each step.

Above: `llm`. Below: `Engine`, which is touched under a lock only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from glm_crush.engine.closing import close_at_exit
from glm_crush.engine.engine import Engine
from glm_crush.engine.output import OutputCollector, RequestDelta
from glm_crush.errors import EngineError
from glm_crush.types import RequestOutput, SamplingParams

__all__ = ["SyncEngine"]

_Sink = Callable[[RequestDelta], None]


class SyncEngine:
    """Owns an engine; `max_in_flight` requests of one `run` are queued at a time, however many there are."""

    def __init__(self, engine: Engine, *, max_in_flight: int) -> None:
        self.metrics = engine.metrics
        self._max_in_flight = max_in_flight
        self._closing = False
        self._lock = threading.Lock()  # guards the two below
        self._engine: Engine | None = engine
        self._sinks: dict[str, _Sink] = {}
        close_at_exit(self)

    def run(self, requests: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[RequestOutput]:
        """Finish all requests; returns their outputs in order.

        Raises:
            RequestError: one of them cannot be; nothing has been computed then.
            EngineError: the engine stopped.
        """
        for prompt, params in requests:
            with self._lock:
                self._open_engine().check_request(prompt, params)
        to_add = deque(requests)
        collectors: list[OutputCollector] = []
        unfinished: dict[str, OutputCollector] = {}
        try:
            while to_add or unfinished:
                with self._lock:
                    engine = self._open_engine()
                    while (
                        to_add and len(unfinished) < self._max_in_flight and engine.scheduler.has_room(to_add[0][1].n)
                    ):
                        collector = self._add_collector(engine, *to_add.popleft())
                        collectors.append(collector)
                        unfinished[collector.request_id] = collector
                    # Another caller's step may have finished the last of ours. Where others fill the queue, ours go on
                    # once theirs have: nobody else may be stepping, a stream steps only while it is read.
                    if not unfinished or not all(collector.finished for collector in unfinished.values()):
                        self._step(engine)
                for request_id in [key for key, collector in unfinished.items() if collector.finished]:
                    error = unfinished.pop(request_id).error
                    if error is not None:
                        raise error
        finally:
            self._abort(unfinished)
        return [collector.output() for collector in collectors]

    def stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Iterator[RequestDelta]:
        """Queue a request and iterate over what each step adds to it; closing the iterator aborts it.

        It is queued by the first `next`, which raises OverloadedError when there is no room.

        Raises:
            RequestError: the request cannot be; raised by this call, not by the first `next`.
            EngineError: the engine stopped.
        """
        with self._lock:
            self._open_engine().check_request(prompt_token_ids, params)
        return self._stream(prompt_token_ids, params)

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Make a LoRA adapter known by a name; see `Adapters`."""
        with self._lock:
            adapters = self._open_engine().adapters
        prepared = adapters.prepare(name, path)
        with self._lock:
            self._open_engine().adapters.install(prepared)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; refused while a request uses it."""
        with self._lock:
            self._open_engine().unload_adapter(name)

    def close(self) -> None:
        """Abort what is running and let go of the engine; a second call does nothing."""
        self._closing = True  # seen by whoever steps, who would else take the lock again before we get it
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None
            self._sinks.clear()

    def _stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Iterator[RequestDelta]:
        deltas: deque[RequestDelta] = deque()
        num_open = params.n
        with self._lock:
            request_id = self._open_engine().add_request(prompt_token_ids, params)
            self._sinks[request_id] = deltas.append
        try:
            while num_open:
                while not deltas:
                    with self._lock:
                        if not deltas:
                            self._step(self._open_engine())
                delta = deltas.popleft()
                if delta.error is not None:
                    raise delta.error
                num_open -= delta.finish_reason is not None
                yield delta
        finally:
            self._abort([request_id])

    def _open_engine(self) -> Engine:
        if self._engine is None or self._closing:
            raise EngineError("The model has been closed; load it again.")
        return self._engine

    def _add_collector(self, engine: Engine, prompt: Sequence[int], params: SamplingParams) -> OutputCollector:
        request_id = engine.add_request(prompt, params)
        collector = OutputCollector(request_id, prompt, n=params.n)
        self._sinks[request_id] = collector.add
        return collector

    def _step(self, engine: Engine) -> None:
        for delta in engine.step():
            self._sinks[delta.request_id](delta)

    def _abort(self, request_ids: Iterable[str]) -> None:
        """Forget the requests, and end those that still run."""
        with self._lock:
            for request_id in request_ids:
                self._sinks.pop(request_id, None)
                if self._engine is not None:
                    self._engine.abort(request_id)
