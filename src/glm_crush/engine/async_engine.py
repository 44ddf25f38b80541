"""The engine for event loops: it steps in a thread of its own and hands deltas to coroutines.

Above: `serving`. Below: `Engine`, which only that thread touches. Nothing polls: commands wake the thread through
a condition, and each step wakes each event loop at most once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_crush.engine.closing import close_at_exit
from glm_crush.engine.deadlines import deadline_error
from glm_crush.engine.engine import Engine
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import RequestDelta
from glm_crush.engine.stream import TokenStream, deliver
from glm_crush.errors import EngineError, OverloadedError
from glm_crush.types import SamplingParams, StructuredOutput

__all__ = ["AsyncEngine"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Submission:
    """A request on its way in. The engine's thread owns `num_open`, its replies that have not ended."""

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    options: Mapping[str, Any]
    stream: TokenStream
    num_open: int


_Delivery = tuple[_Submission, RequestDelta | None, Exception | None]


class AsyncEngine:
    """Owns an engine and the thread that steps it, from construction until `close`.

    When nothing has come for `idle_check_seconds`, the engine's books are checked.
    """

    def __init__(self, engine: Engine, *, idle_check_seconds: float = 1.0) -> None:
        self._engine = engine
        self._idle_check_seconds = idle_check_seconds
        self._condition = threading.Condition()  # guards the next five
        self._commands: list[tuple[Callable[[], None], Future[None]]] = []  # for between two steps
        self._arrivals: list[_Submission] = []
        self._departures: list[_Submission] = []
        self._failure: EngineError | None = None
        self._closing = False
        self._submissions: dict[str, _Submission] = {}  # only the engine's thread uses it
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
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        deadline_seconds: float | None = None,
        resume: bool = False,  # noqa: ARG002 - a reply cannot outlive this engine, which has no process of its own
    ) -> AsyncGenerator[RequestDelta, None]:
        """Queue a request and yield what each step adds to it; closing the generator aborts the request.

        Raises:
            RequestError, OverloadedError: the request was refused, before anything was yielded.
            DeadlineError: it was not done within `deadline_seconds`.
            EngineError: the engine has stopped, perhaps in the middle of the reply.
        """
        stream = TokenStream(asyncio.get_running_loop())
        options = {
            "priority": priority,
            "cache_salt": cache_salt,
            "tenant": tenant,
            "deadline_seconds": deadline_seconds,
            "waited_seconds": await self._await_grammar(params.structured, deadline_seconds),
        }
        submission = _Submission(request_id, prompt_token_ids, params, options, stream, num_open=params.n)
        self._post(submission)
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
                    self._departures.append(submission)
                    self._condition.notify()

    async def _await_grammar(self, structured: StructuredOutput | None, deadline_seconds: float | None) -> float:
        """Have a grammar compiled beside the steps; returns how long that took."""
        if structured is None or self._engine.grammars is None or self._engine.grammars.is_compiled(structured):
            return 0.0
        started = time.monotonic()
        seconds = self._engine.deadlines.default_seconds if deadline_seconds is None else deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self._engine.grammars.check, structured)
        except TimeoutError as error:
            assert seconds is not None
            raise deadline_error(seconds, has_begun=False) from error
        return time.monotonic() - started

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Make a LoRA adapter known by a name; blocks, so call it from a thread.

        Raises:
            InvalidParameterError: the name is taken or cannot be one. ModelError: the adapter does not fit the model.
            EngineError: the engine has stopped.
        """
        prepared = self._engine.adapters.prepare(name, path)
        self._between_steps(lambda: self._engine.adapters.install(prepared))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; blocks for a step.

        Raises:
            InvalidParameterError: there is none of that name, or requests use it.
            EngineError: the engine has stopped.
        """
        self._between_steps(lambda: self._engine.unload_adapter(name))

    def _between_steps(self, command: Callable[[], None]) -> None:
        future: Future[None] = Future()
        with self._condition:
            if self._failure is not None or self._closing:
                raise EngineError(str(self._failure or "The engine has been closed."))
            self._commands.append((command, future))
            self._condition.notify()
        future.result()

    def close(self) -> None:
        """Stop the thread once its step is done; requests that are not finished end with EngineError."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _post(self, submission: _Submission) -> None:
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
            self._arrivals.append(submission)
            self._condition.notify()

    def _run(self) -> None:
        """The engine's thread."""
        try:
            while self._obey():
                self._deliver([(self._submissions[d.request_id], d, None) for d in self._engine.step()])
            self._end_all(EngineError("The engine was closed before the request was finished."))
        # Not Exception alone: a panic in a library written in Rust is none.
        except BaseException as error:  # noqa: BLE001 - every waiting request is told; nobody waits for a dead thread
            _log.error("the engine stopped", exc_info=error)
            self._end_all(error if isinstance(error, EngineError) else EngineError(f"The engine stopped: {error!r}"))
        self._engine.close()

    def _obey(self) -> bool:
        """Wait until there is something to compute, and take in what was posted; False when closing."""
        idle_seconds: float | None = self._idle_check_seconds
        while True:
            with self._condition:
                woken = self._condition.wait_for(self._has_news, idle_seconds)
                if self._closing:
                    return False
                arrivals, departures, commands = self._arrivals[:], self._departures[:], self._commands[:]
                self._commands.clear()
                self._arrivals.clear()
                self._departures.clear()
            if not woken:
                self._engine.check_integrity()
                idle_seconds = None  # once is enough until there is work again
            for command, future in commands:
                _carry_out(command, future)
            for submission in arrivals:
                self._add(submission)
            for submission in departures:
                # Only if the id is this one's: one refused as a duplicate must not end the other.
                if self._submissions.get(submission.request_id) is submission:
                    self._abort(submission)
            if self._engine.has_unfinished:
                return True

    def _has_news(self) -> bool:
        return bool(
            self._arrivals or self._departures or self._commands or self._closing or self._engine.has_unfinished
        )

    def _add(self, submission: _Submission) -> None:
        try:
            self._engine.add_request(
                submission.prompt_token_ids,
                submission.params,
                request_id=submission.request_id,
                **submission.options,
            )
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this request is its caller's to see
            self._deliver([(submission, None, error)])
        else:
            self._submissions[submission.request_id] = submission

    def _abort(self, submission: _Submission) -> None:
        del self._submissions[submission.request_id]
        self._engine.abort(submission.request_id)

    def _deliver(self, deliveries: list[_Delivery]) -> None:
        """Wake each event loop once with everything that is new for it."""
        for submission, delta, _ in deliveries:
            if delta is not None and delta.finish_reason is not None:
                submission.num_open -= 1
                if submission.num_open == 0:
                    del self._submissions[submission.request_id]
        abandoned = deliver((submission.stream, delta, error) for submission, delta, error in deliveries)
        for submission in {submission for submission, _, _ in deliveries if submission.stream in abandoned}:
            if submission.request_id in self._submissions:
                self._abort(submission)

    def _end_all(self, failure: EngineError) -> None:
        """Tell every request that is queued or running; from now on `submit` raises."""
        with self._condition:
            self._failure = failure
            submissions = [*self._submissions.values(), *self._arrivals]
            self._arrivals.clear()
            commands = self._commands[:]
            self._commands.clear()
        for _, future in commands:
            future.set_exception(failure)
        self._submissions.clear()
        self._deliver([(submission, None, failure) for submission in submissions])


def _carry_out(command: Callable[[], None], future: Future[None]) -> None:
    try:
        command()
    except Exception as error:  # noqa: BLE001 - whoever asked is told
        future.set_exception(error)
    else:
        future.set_result(None)
