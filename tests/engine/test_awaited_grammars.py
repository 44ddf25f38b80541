"""Requests whose grammar is being compiled: no other waits for them, and they end when those in the queue would."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm_crush.engine.async_engine import AsyncEngine
from glm_crush.engine.process.awaited_grammars import AwaitedGrammars
from glm_crush.engine.process.beside import Beside
from glm_crush.engine.process.engine_process import EngineProcess
from glm_crush.engine.process.wire import Submit, WireError
from glm_crush.errors import DeadlineError, InvalidParameterError
from glm_crush.types import SamplingParams, StructuredOutput
from tests.engine import grammar_models
from tests.engine.process_children import CACHE, SlowGrammars

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("children_find_the_tests"),
    pytest.mark.requirement("E2", "E4"),
]

YES = StructuredOutput.choice(["yes"])
NO = StructuredOutput.choice(["no"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Gate:
    """A grammar that compiles once the gate is opened; `length` characters of it."""

    def __init__(self, folder: Path, name: str, length: int = 0) -> None:
        self._path = folder / name
        os.mkfifo(self._path)
        self.grammar = StructuredOutput(kind="regex", grammar=str(self._path).ljust(length))

    async def reached(self) -> None:
        """Wait until somebody is about to compile it."""
        await until(self._path.with_suffix(".reached").exists)

    async def open(self) -> None:
        """Let whoever compiles it go on."""
        await self.reached()
        os.close(os.open(self._path, os.O_WRONLY))


@asynccontextmanager
async def process(**arguments: Any) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess("tests.engine.process_children:make_with_slow_grammars", arguments)
    try:
        assert await asyncio.to_thread(engine.wait_until_ready) == CACHE
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


@asynccontextmanager
async def thread(*, default_deadline_seconds: float | None = None) -> AsyncIterator[AsyncEngine]:
    inner = grammar_models.engine()
    inner.grammars, inner.deadlines.default_seconds = SlowGrammars(), default_deadline_seconds
    engine = AsyncEngine(inner)
    try:
        yield engine
    finally:
        engine.close()


BOTH = pytest.mark.parametrize("start", [process, thread])


async def text_of(engine: Any, request_id: str, structured: StructuredOutput, **options: Any) -> str:
    params = SamplingParams(structured=structured, max_tokens=20, seed=1)
    async with asyncio.timeout(60):
        return "".join([delta.text async for delta in engine.submit(request_id, [5], params, **options)])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@BOTH
async def test_a_deadline_counts_while_the_grammar_is_compiled(start: Any, tmp_path: Path):
    gate = Gate(tmp_path, "slow")
    async with start() as engine:
        with pytest.raises(DeadlineError, match=r"the deadline of 0\.0\d+ s passed before the request had its turn"):
            await text_of(engine, "late", gate.grammar, deadline_seconds=0.05)
        await gate.open()
        assert await text_of(engine, "next", YES, deadline_seconds=60.0) == "yes"


@BOTH
async def test_so_does_the_deadline_that_all_requests_have(start: Any, tmp_path: Path):
    gate = Gate(tmp_path, "slow")
    async with start(default_deadline_seconds=0.05) as engine:
        with pytest.raises(DeadlineError, match=r"the deadline of 0\.0\d+ s passed before the request had its turn"):
            await text_of(engine, "late", gate.grammar)
        await gate.open()


async def test_a_short_grammar_does_not_wait_for_a_long_one(tmp_path: Path):
    gate = Gate(tmp_path, "slow", length=10_000)
    async with process() as engine:
        slow = asyncio.create_task(text_of(engine, "slow", gate.grammar))
        await gate.reached()
        assert await text_of(engine, "quick", YES) == "yes"
        assert not slow.done()
        slow.cancel()
        await gate.open()


async def test_a_compiled_grammar_waits_for_none(tmp_path: Path):
    gate = Gate(tmp_path, "slow", length=10_000)
    long = replace(YES, grammar=YES.grammar.ljust(10_000))
    async with process() as engine:
        await text_of(engine, "first", long)
        slow = asyncio.create_task(text_of(engine, "slow", gate.grammar))
        await gate.reached()
        assert await text_of(engine, "again", long) == "yes"
        assert not slow.done()
        slow.cancel()
        await gate.open()


async def test_a_request_that_is_given_up_is_forgotten_at_once(tmp_path: Path):
    first, second = (Gate(tmp_path, name, length=10_000) for name in ("first", "second"))
    async with process() as engine:
        tasks = [asyncio.create_task(text_of(engine, str(gate), gate.grammar)) for gate in (first, second)]
        await until(lambda: engine.num_waiting == 2)
        for task in tasks:
            task.cancel()
        await until(lambda: engine.num_waiting == 0)
        await first.open()
        # The second is not compiled any more: it would hold this one up.
        assert await text_of(engine, "next", replace(NO, grammar=NO.grammar.ljust(10_000))) == "no"
        assert engine.metrics.num_output_tokens == len(grammar_models.TOKENIZER.encode("no"))


# --- the parts, by a clock of their own ---


class Line:
    """The parts that the child has, by hand."""

    def __init__(self, grammars: Any = None, **options: Any) -> None:
        self.grammars = grammars
        self.now = 100.0
        self.added: list[tuple[str, float]] = []
        self.refused: dict[str, WireError] = {}
        self.beside = Beside()
        options = {"default_deadline_seconds": None, "max_waiting": 8, **options}
        self.awaited = AwaitedGrammars(
            grammars,
            self.beside,
            add=lambda submit, waited: self.added.append((submit.request_id, waited)),
            refuse=self.refused.__setitem__,
            clock=lambda: self.now,
            **options,
        )

    def close(self) -> None:
        if self.grammars is not None:
            self.grammars.go.set()
        self.beside.close()

    def take(self, request_id: str, structured: StructuredOutput | None, deadline: float | None = None) -> None:
        params = replace(SamplingParams(), structured=structured)
        self.awaited.take(Submit(request_id, b"", params, deadline_seconds=deadline))


Make = Callable[..., Line]


@pytest.fixture
def make_line() -> Iterator[Make]:
    lines: list[Line] = []

    def make(*args: Any, **options: Any) -> Line:
        lines.append(Line(*args, **options))
        return lines[-1]

    yield make
    for line in lines:
        line.close()


class HeldGrammars:
    """Every grammar compiles once `go` is set; "bad" cannot be."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def is_compiled(self, structured: StructuredOutput) -> bool:
        return False

    def check(self, structured: StructuredOutput) -> None:
        assert self.go.wait(30)
        if structured.grammar == "bad":
            raise InvalidParameterError("no", parameter="structured")


def test_a_request_is_added_with_the_time_it_has_waited_or_refused_with_the_reason(make_line: Make):
    grammars = HeldGrammars()
    line = make_line(grammars)
    line.take("free", None)
    line.take("a", YES)
    line.take("b", StructuredOutput(kind="regex", grammar="bad"))
    assert (line.added, len(line.awaited)) == ([("free", 0.0)], 2)
    line.now = 103.5
    grammars.go.set()
    while len(line.awaited):
        line.beside.go_on()
    assert line.added == [("free", 0.0), ("a", 3.5)]
    assert line.refused == {"b": WireError("InvalidParameterError", "no", "structured")}


def test_a_deadline_is_met_to_the_moment_and_only_once(make_line: Make):
    grammars = HeldGrammars()
    line = make_line(grammars, default_deadline_seconds=20.0)
    line.take("a", YES, deadline=5.0)
    line.take("b", YES)
    assert line.awaited.seconds_to_deadline() == 5.0
    line.now = 104.9
    line.awaited.end_expired()
    assert not line.refused
    line.now = 105.0
    line.awaited.end_expired()
    line.awaited.end_expired()
    assert [(name, error.kind) for name, error in line.refused.items()] == [("a", "DeadlineError")]
    assert (len(line.awaited), line.awaited.seconds_to_deadline()) == (1, 15.0)
    grammars.go.set()
    while len(line.awaited):
        line.beside.go_on()
    assert line.added == [("b", 5.0)]


def test_beyond_the_queues_size_requests_are_refused_with_the_numbers(make_line: Make):
    grammars = HeldGrammars()
    line = make_line(grammars, max_waiting=1)
    line.take("a", YES)
    line.take("b", YES)
    assert line.refused["b"].message.startswith("1 requests wait for their grammars and the queue holds 1; try again")
    line.awaited.forget("a")
    line.take("c", YES)
    assert list(line.refused) == ["b"]


def test_without_grammars_every_form_is_refused(make_line: Make):
    line = make_line(None)
    line.take("a", YES)
    while len(line.awaited):
        line.beside.go_on()
    assert line.refused["a"].message == "this engine has no grammars; leave structured out"
