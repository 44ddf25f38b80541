"""Requests whose grammar is being compiled: they run out of time and are given up as those in the queue are.

Above: the host, on whose thread everything here happens but the compiling. Below: grammars, deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from glm_crush.engine.deadlines import Deadlines, deadline_error
from glm_crush.engine.grammar import GrammarCompiler, check_structured
from glm_crush.engine.process.beside import Beside, Lane
from glm_crush.engine.process.wire import Submit, WireError
from glm_crush.errors import OverloadedError
from glm_crush.types import StructuredOutput

__all__ = ["AwaitedGrammars"]

# Most grammars of this size take less than 50 ms.
_SHORT_CHARACTERS = 4096


@dataclass(frozen=True)
class _Waiting:
    submit: Submit
    since: float
    work: Future[None]


class AwaitedGrammars:
    """Compiles grammars beside the steps.

    Args:
        grammars: None = none can be had. beside: does the work.
        add: takes a request whose grammar is ready, and how long that took. refuse: takes one that is not to be.
        default_deadline_seconds: for requests that come without a time. max_waiting: beyond it they are refused.
    """

    def __init__(
        self,
        grammars: GrammarCompiler | None,
        beside: Beside,
        *,
        add: Callable[[Submit, float], None],
        refuse: Callable[[str, WireError], None],
        default_deadline_seconds: float | None,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grammars = grammars
        self._beside = beside
        self._add = add
        self._refuse = refuse
        self._max_waiting = max_waiting
        self._clock = clock
        self._deadlines = Deadlines(default_deadline_seconds)
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def compile(self, structured: StructuredOutput, go_on: Callable[[WireError | None], None]) -> Future[None]:
        """Have a grammar compiled."""
        lane: Lane = "short" if len(structured.grammar) <= _SHORT_CHARACTERS else "long"
        return self._beside.start(lane, lambda: check_structured(structured, self._grammars), go_on)

    def take(self, submit: Submit) -> None:
        """A request has come: it is added once its grammar is ready, which it may be."""
        structured, request_id, now = submit.params.structured, submit.request_id, self._clock()
        if structured is None or (self._grammars is not None and self._grammars.is_compiled(structured)):
            self._add(submit, 0.0)
            return
        if len(self._waiting) >= self._max_waiting:
            error = OverloadedError(
                f"{len(self._waiting)} requests wait for their grammars and the queue holds {self._max_waiting}; "
                "try again later or raise max_queue_size"
            )
            self._refuse(request_id, WireError.of(error))
            return
        self._deadlines.add(request_id, now, submit.deadline_seconds)
        waiting = _Waiting(submit, now, self.compile(structured, lambda error: self._go_on(waiting, error)))
        self._waiting[request_id] = waiting

    def forget(self, request_id: str) -> None:
        """Nobody waits for this request any more."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            self._deadlines.forget(request_id)
            waiting.work.cancel()

    def seconds_to_deadline(self) -> float | None:
        """When `end_expired` has something to do at the latest; None = never."""
        nearest = self._deadlines.nearest()
        return None if nearest is None else max(0.0, nearest - self._clock())

    def end_expired(self) -> None:
        """Refuse those that have waited for too long."""
        for request_id, seconds in self._deadlines.expired(self._clock()):
            self.forget(request_id)
            self._refuse(request_id, WireError.of(deadline_error(seconds, has_begun=False)))

    def _go_on(self, waiting: _Waiting, error: WireError | None) -> None:
        request_id = waiting.submit.request_id
        if self._waiting.get(request_id) is not waiting:
            return  # it has been given up, and another may have its id
        self.forget(request_id)
        if error is None:
            self._add(waiting.submit, self._clock() - waiting.since)
        else:
            self._refuse(request_id, error)
