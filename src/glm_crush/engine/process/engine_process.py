"""An engine in a supervised process of its own, as serving sees it.

Above: `serving`. Below: the supervisor's thread, which owns all state. Any number of event loops may submit; nothing
here blocks one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.closing import close_at_exit
from glm_crush.engine.metrics import EngineMetrics, sum_of_metrics
from glm_crush.engine.output import RequestDelta
from glm_crush.engine.process.mailbox import AdapterLoad, AdapterUnload
from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.engine.process.spawned_child import SpawnedChild
from glm_crush.engine.process.supervisor import Supervision, Supervisor
from glm_crush.engine.process.wire import Start, Submit
from glm_crush.engine.stream import TokenStream
from glm_crush.errors import InvalidParameterError, OverloadedError
from glm_crush.types import SamplingParams, StructuredOutput

__all__ = ["EngineProcess", "Supervision"]

_GRAMMAR_SECONDS = 60.0
_ADAPTER_SECONDS = 120.0


class EngineProcess:
    """Starts the process at construction and keeps one alive until `close`.

    Args:
        make: "module:function" that builds a `HostedEngine` in the child, called with `arguments` (plain values).
        max_queue_size: requests that may wait while there is no child; the engine has its own limit.
        supervision: None = the defaults. spawned: the first child, where it has been started; taken over.
    """

    def __init__(
        self,
        make: str,
        arguments: Mapping[str, Any],
        *,
        max_queue_size: int = 512,
        supervision: Supervision | None = None,
        spawned: SpawnedChild | None = None,
    ) -> None:
        self._supervision = supervision or Supervision()
        self._max_queue_size = max_queue_size
        self._supervisor = Supervisor(Start(make, dict(arguments)), self._supervision, spawned)
        close_at_exit(self)

    def wait_until_ready(self) -> CachePlan:
        """Block until the first child takes requests; returns what it says of its KV cache.

        Raises:
            GlmError: it could not start; as `build_engine` in this process would have said it.
        """
        return self._supervisor.first_start.result()

    @property
    def is_alive(self) -> bool:
        """Whether there is a child that takes requests."""
        return self._supervisor.is_running

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._supervisor.pid

    @property
    def metrics(self) -> EngineMetrics:
        """Counters over all children; a quarter of a second old at most."""
        return sum_of_metrics(self._supervisor.past_metrics, self._supervisor.status.metrics)

    @property
    def num_running(self) -> int:
        return self._supervisor.status.num_running

    @property
    def num_waiting(self) -> int:
        return self._supervisor.status.num_waiting + self._supervisor.num_unsent

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache in use."""
        return self._supervisor.status.cache_usage

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
        resume: bool = False,
    ) -> AsyncGenerator[RequestDelta, None]:
        """Queue a request and yield what each step adds to it; closing the generator aborts the request.

        A request is run again when its child dies before it has yielded anything, and with `resume` after that too:
        then the next child goes on where it stood.

        Raises:
            RequestError, OverloadedError: the request was refused, before anything was yielded.
            DeadlineError: it was not done within `deadline_seconds`.
            EngineError: the engine has died in the middle of the reply, or has been closed.
        """
        self._check_room()
        stream = TokenStream(asyncio.get_running_loop())
        now = time.monotonic()
        submit = Submit(request_id, _as_bytes(prompt_token_ids), _with_seed(params), priority, cache_salt, tenant)
        deadline = None if deadline_seconds is None else now + deadline_seconds
        request = OpenRequest(stream, submit, resume, now + self._supervision.wait_seconds, deadline)
        self._supervisor.mailbox.submit(request)
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
                self._supervisor.mailbox.abandon(request)

    def check(self, structured: StructuredOutput) -> None:
        """Have the child compile a grammar, so that it is ready; blocks, so call it from a thread.

        Raises:
            InvalidParameterError: it cannot be used; says why.
            OverloadedError: there is no child, and none came in time.
            EngineError: the engine has been closed, or has died of it again and again.
        """
        self._check_room()
        future = self._supervisor.mailbox.ask(structured)
        try:
            future.result(_GRAMMAR_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise OverloadedError(
                f"the grammar was not compiled within {_GRAMMAR_SECONDS:.0f} s; try again later or make it simpler"
            ) from error

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Have the child, and every child after it, load a LoRA adapter; blocks, so call it from a thread.

        Raises:
            InvalidParameterError: the name is taken or cannot be one. ModelError: the adapter does not fit the model.
            OverloadedError: it was not loaded in time. EngineError: the engine has been closed.
        """
        self._await(AdapterLoad(name, str(Path(path).expanduser().absolute())))

    def unload_adapter(self, name: str) -> None:
        """Have the child forget an adapter; blocks, so call it from a thread.

        Raises:
            InvalidParameterError: there is none of that name, or requests use it.
            OverloadedError, EngineError: as `load_adapter`.
        """
        self._await(AdapterUnload(name))

    def _await(self, asked: AdapterLoad | AdapterUnload) -> None:
        self._check_room()
        future = self._supervisor.mailbox.ask(asked)
        try:
            future.result(_ADAPTER_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise OverloadedError(
                f"the engine did not answer within {_ADAPTER_SECONDS:.0f} s; see what is loaded, then try again"
            ) from error

    def close(self) -> None:
        """End the process; requests that are not finished end with EngineError."""
        self._supervisor.close()

    def _check_room(self) -> None:
        supervisor = self._supervisor
        if supervisor.next_start is not None:
            seconds = supervisor.next_start - time.monotonic()
            if seconds > self._supervision.wait_seconds:
                raise OverloadedError(
                    f"the engine has died more than {self._supervision.max_restarts_per_minute} times within a "
                    f"minute; it is started again in {seconds:.0f} s",
                    retry_after_seconds=seconds,
                )
        if supervisor.num_unsent >= self._max_queue_size:
            raise OverloadedError(
                f"{supervisor.num_unsent} requests are waiting for the engine to come back and the queue holds "
                f"{self._max_queue_size}; try again later or raise max_queue_size"
            )


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    try:
        return array("i", token_ids).tobytes()
    except (OverflowError, TypeError) as error:
        raise InvalidParameterError(f"the prompt holds what is no token id: {error}", parameter="prompt") from error


def _with_seed(params: SamplingParams) -> SamplingParams:
    """A second run must draw the same tokens."""
    return params if params.seed is not None else replace(params, seed=secrets.randbits(63))
