"""An engine in a process of its own: same replies, and nobody hangs or is lost when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from glm_crush.engine.output import RequestDelta
from glm_crush.engine.process.engine_process import EngineProcess, Supervision
from glm_crush.engine.process.spawned_child import SpawnedChild
from glm_crush.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    InvalidParameterError,
    OverloadedError,
)
from glm_crush.types import SamplingParams, StructuredOutput
from tests.engine.process_children import BEFORE, CACHE, DEADLY, HANGER, KILLER, MAKE, RAISER
from tests.engine.scripted import greedy, make_engine, run, sampled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("children_find_the_tests"),
    pytest.mark.requirement("E4", "S9"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(
    make: str = MAKE, supervision: Supervision | None = None, **arguments: Any
) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(make, arguments, supervision=supervision)
    try:
        assert await asyncio.to_thread(engine.wait_until_ready) == CACHE
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def deltas_of(
    engine: EngineProcess, request_id: str, prompt: list[int], params: SamplingParams, **options: Any
) -> list[RequestDelta]:
    async with asyncio.timeout(60):
        return [delta async for delta in engine.submit(request_id, prompt, params, **options)]


async def tokens_of(
    engine: EngineProcess, request_id: str, prompt: list[int], params: SamplingParams, **options: Any
) -> list[int]:
    deltas = await deltas_of(engine, request_id, prompt, params, **options)
    return [token for delta in deltas for token in delta.token_ids]


def expected(prompt: list[int], params: SamplingParams) -> list[int]:
    """What an engine in this process replies."""
    return list(run(make_engine(), (prompt, params))[0].outputs[0].token_ids)


def is_gone(pid: int) -> bool:
    """Ended and waited for."""
    return not Path(f"/proc/{pid}").exists()


async def test_replies_are_those_of_an_engine_in_this_process():
    prompts = [[number, 2, 3] for number in range(12)]
    async with running() as engine:
        replies = await asyncio.gather(*(tokens_of(engine, str(p), p, sampled(seed=7)) for p in prompts))
        whole = await deltas_of(engine, "whole", [1, 2], greedy(n=2, logprobs=2, prompt_logprobs=1, max_tokens=3))
    assert replies == [expected(prompt, sampled(seed=7)) for prompt in prompts]
    output = run(make_engine(), ([1, 2], greedy(n=2, logprobs=2, prompt_logprobs=1, max_tokens=3)))[0]
    assert [delta.logprobs for delta in whole if delta.index == 1] == [(entry,) for entry in output.outputs[1].logprobs]
    assert whole[0].prompt_logprobs == output.prompt_logprobs
    assert [delta.stats.num_output_tokens for delta in whole if delta.stats is not None] == [3, 3]


async def test_a_refusal_keeps_its_class_and_its_parameter():
    async with running() as engine:
        with pytest.raises(ContextLengthError, match="the context holds 128") as caught:
            await tokens_of(engine, "a", [1] * 200, greedy())
        assert caught.value.parameter == "prompt"
        with pytest.raises(InvalidParameterError):
            await tokens_of(engine, "b", [2**40], greedy())
        assert await tokens_of(engine, "c", [1], greedy()) == expected([1], greedy())


async def test_a_duplicate_id_is_refused_and_does_not_end_the_first(tmp_path: Path):
    async with running(hold_first_before=1, marker=str(tmp_path / "m")) as engine:
        first = engine.submit("a", [1], greedy())
        await anext(first)
        with pytest.raises(InvalidParameterError, match="in use"):
            await tokens_of(engine, "a", [1], greedy())


async def test_a_consumer_that_goes_away_ends_its_request():
    async with running() as engine:
        stream = engine.submit("a", [1], greedy(max_tokens=120))
        await anext(stream)
        await stream.aclose()
        await until(lambda: engine.metrics.num_finished["abort"] == 1)
        await until(lambda: engine.num_running == 0 and engine.cache_usage == 0.0)


async def test_when_it_is_killed_begun_streams_end_and_all_others_are_answered(tmp_path: Path):
    """Four run and six wait. Of the four, two may be gone on with; the six are run by the next process."""
    params = sampled(seed=3, max_tokens=12)
    async with running(hold_first_before=3, marker=str(tmp_path / "m"), max_num_seqs=4) as engine:
        streams = [engine.submit(str(n), [n, 1], params, resume=n % 2 == 1) for n in range(4)]
        firsts = [asyncio.create_task(anext(stream)) for stream in streams]
        others = [asyncio.create_task(tokens_of(engine, str(n), [n, 1], params)) for n in range(4, 10)]
        begun = [await first for first in firsts]
        dead = engine.pid
        os.kill(dead, signal.SIGKILL)
        for number in (1, 3):
            rest = [token async for delta in streams[number] for token in delta.token_ids]
            assert [*begun[number].token_ids, *rest] == expected([number, 1], params)
        for number in (0, 2):
            with pytest.raises(EngineError, match=r"signal 9 \(Killed\) in the middle of the reply"):
                [delta async for delta in streams[number]]
        assert [await task for task in others] == [expected([n, 1], params) for n in range(4, 10)]
        assert engine.pid != dead
        assert is_gone(dead)
        assert engine.metrics.num_finished["length"] == 8


async def test_a_deadline_holds_across_a_death(tmp_path: Path):
    async with running(hold_first_before=3, marker=str(tmp_path / "m")) as engine:
        late = asyncio.create_task(tokens_of(engine, "late", [1], greedy(), resume=True, deadline_seconds=0.0))
        with pytest.raises(DeadlineError, match="before the request had its turn"):
            await late
        stream = engine.submit("a", [1], greedy(max_tokens=20), resume=True, deadline_seconds=60.0, tenant="a")
        tokens = [*(await anext(stream)).token_ids]
        os.kill(engine.pid, signal.SIGKILL)
        tokens += [token async for delta in stream for token in delta.token_ids]
        assert tokens == expected([1], greedy(max_tokens=20))


async def test_requests_without_a_seed_are_gone_on_with_too(tmp_path: Path):
    async with running(hold_first_before=5, marker=str(tmp_path / "m")) as engine:
        task = asyncio.create_task(tokens_of(engine, "a", [1], sampled(max_tokens=20, temperature=5.0), resume=True))
        await until(lambda: engine.metrics.num_output_tokens > 0)
        os.kill(engine.pid, signal.SIGKILL)
        assert len(await task) == 20


async def test_a_process_that_hangs_is_replaced():
    async with running(supervision=Supervision(hang_seconds=2.5)) as engine:
        first = engine.pid
        os.kill(first, signal.SIGSTOP)
        assert await tokens_of(engine, "a", [1], greedy()) == expected([1], greedy())
        assert is_gone(first)


@pytest.mark.parametrize(("poison", "cause"), [(KILLER, "was ended by signal 9"), (RAISER, "kernel on fire")])
async def test_a_request_that_ends_three_processes_is_given_up_and_the_others_are_answered(poison: int, cause: str):
    async with running(max_num_seqs=1) as engine:
        bad = asyncio.create_task(tokens_of(engine, "bad", [BEFORE, poison], greedy()))
        good = [asyncio.create_task(tokens_of(engine, str(n), [n], greedy())) for n in range(1, 4)]
        with pytest.raises(EngineError, match=cause) as caught:
            await bad
        assert "as 2 before it did with this request" in str(caught.value)
        assert [await task for task in good] == [expected([n], greedy()) for n in range(1, 4)]


async def test_a_request_that_makes_it_hang_does_not_keep_the_others_waiting_for_ever():
    supervision = Supervision(hang_seconds=0.5)
    async with running(supervision=supervision, max_num_seqs=1) as engine:
        bad = asyncio.create_task(tokens_of(engine, "bad", [BEFORE, HANGER], greedy(), resume=False))
        good = asyncio.create_task(tokens_of(engine, "good", [1], greedy()))
        with pytest.raises(EngineError, match="did nothing for"):
            await bad
        assert await good == expected([1], greedy())


async def test_a_grammar_that_ends_three_processes_is_given_up_and_the_engine_comes_back():
    async with running("tests.engine.process_children:make_with_deadly_grammars") as engine:
        with pytest.raises(EngineError, match=r"signal 9 \(Killed\), as 2 before it did when asked for this"):
            await asyncio.to_thread(engine.check, StructuredOutput.regex(DEADLY))
        assert await tokens_of(engine, "a", [1], greedy()) == expected([1], greedy())


async def test_an_engine_for_which_no_process_can_be_had_is_started_later(monkeypatch: pytest.MonkeyPatch):
    async with running() as engine:
        refusals = [OSError("out of memory"), OSError("out of processes")]

        def refuse_twice(*_: Any) -> SpawnedChild:
            if refusals:
                raise refusals.pop()
            return SpawnedChild()

        monkeypatch.setattr("glm_crush.engine.process.child.SpawnedChild", refuse_twice)
        os.kill(engine.pid, signal.SIGKILL)
        assert await tokens_of(engine, "a", [1], greedy()) == expected([1], greedy())
        assert refusals == []


async def test_beyond_the_limit_of_restarts_requests_are_refused_at_once_with_a_time():
    async with running(supervision=Supervision(max_restarts_per_minute=1, wait_seconds=0.5)) as engine:
        for _ in range(2):
            await until(lambda: engine.is_alive)
            dead = engine.pid
            os.kill(dead, signal.SIGKILL)
            await until(lambda dead=dead: is_gone(dead))
        await until(lambda: not engine.is_alive)
        with pytest.raises(OverloadedError, match="more than 1 times within a minute") as caught:
            await tokens_of(engine, "a", [1], greedy())
        assert 1 < caught.value.retry_after_seconds <= 60


async def test_what_was_waiting_when_no_process_comes_back_in_time_is_refused():
    async with running(supervision=Supervision(max_restarts_per_minute=1, wait_seconds=0.5)) as engine:
        with pytest.raises(OverloadedError, match="has not come back in time"):
            await tokens_of(engine, "a", [BEFORE, KILLER], greedy())


def test_an_engine_that_cannot_be_built_says_why():
    engine = EngineProcess("tests.engine.process_children:make_badly", {})
    with pytest.raises(ConfigError, match="this model takes 8"):
        engine.wait_until_ready()
    engine.close()


def test_a_process_that_dies_while_it_loads_for_the_first_time_is_an_error():
    engine = EngineProcess("tests.engine.process_children:die_while_loading", {})
    with pytest.raises(EngineError, match=r"signal 9 \(Killed\) while it loaded the model"):
        engine.wait_until_ready()
    engine.close()


def test_closing_does_not_wait_for_a_model_to_be_loaded():
    engine = EngineProcess("tests.engine.process_children:hang_while_loading", {})
    while engine.pid is None:
        time.sleep(0.001)
    pid = engine.pid
    engine.close()
    assert is_gone(pid)
    with pytest.raises(EngineError, match="closed"):
        engine.wait_until_ready()


async def test_closing_ends_the_process_and_what_was_running(tmp_path: Path):
    async with running(hold_first_before=1, marker=str(tmp_path / "m")) as engine:
        stream = engine.submit("a", [1], greedy())
        await anext(stream)
        pid = engine.pid
        os.kill(pid, signal.SIGKILL)  # it holds, and closing would wait for its step
        await until(lambda: engine.is_alive and engine.pid != pid)
        last = engine.pid
    with pytest.raises(EngineError):
        await anext(stream)
    assert is_gone(pid)
    assert is_gone(last)
    with pytest.raises(EngineError, match="closed"):
        await tokens_of(engine, "b", [1], greedy())
    engine.close()


async def test_signals_of_the_terminal_and_of_service_managers_are_the_parents():
    async with running() as engine:
        pid = engine.pid
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert await tokens_of(engine, "a", [1], greedy()) == expected([1], greedy())
        assert engine.pid == pid


def test_a_child_does_not_outlive_its_parent():
    program = f"""
import os, signal
from glm_crush.engine.process.engine_process import EngineProcess
engine = EngineProcess({MAKE!r}, {{}})
engine.wait_until_ready()
print(engine.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    pid = int(parent.stdout)
    assert parent.returncode == -signal.SIGKILL

    async def gone() -> None:
        await until(lambda: is_gone(pid) or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())

    asyncio.run(gone())


async def test_nothing_is_left_open_after_many_deaths():
    async with running() as engine:
        open_before = len(os.listdir("/proc/self/fd"))
        for number in range(4):
            os.kill(engine.pid, signal.SIGKILL)
            assert await tokens_of(engine, str(number), [1], greedy()) == expected([1], greedy())
        assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.requirement("M9")
async def test_grammars_are_compiled_in_the_process_and_hold_there():
    async with running("tests.engine.process_children:make_with_grammars") as engine:
        with pytest.raises(InvalidParameterError, match="the regular expression cannot be used"):
            await asyncio.to_thread(engine.check, StructuredOutput.regex("("))
        wanted = StructuredOutput.choice(["yes", "no"])
        await asyncio.to_thread(engine.check, wanted)
        deltas = await deltas_of(engine, "a", [5], SamplingParams(structured=wanted, max_tokens=20, seed=1))
        assert "".join(delta.text for delta in deltas) in {"yes", "no"}
        with pytest.raises(InvalidParameterError):
            await tokens_of(engine, "b", [5], SamplingParams(structured=StructuredOutput.regex("(")))
