"""The engine's thread and the event loop: streams, cancellation, crashes. Nobody hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from glm_crush.engine.async_engine import AsyncEngine
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import EngineError, InvalidParameterError, OverloadedError
from glm_crush.types import SamplingParams
from tests.engine.scripted import VOCAB_SIZE, ScriptedExecutor, greedy, logits_for, make_engine, run, sampled

pytestmark = pytest.mark.anyio

count_up = logits_for(lambda context: (context[-1] + 1) % VOCAB_SIZE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def running(**engine_options) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(make_engine(**engine_options))
    try:
        yield engine
    finally:
        engine.close()


class Gate:
    """Lets the executor do some steps and holds it before the next until opened; `arrived` says that it waits."""

    def __init__(self, *, num_free_steps: int = 0) -> None:
        self.opened = threading.Event()
        self.arrived = threading.Event()
        self._num_free_steps = num_free_steps

    def __call__(self) -> None:
        if self._num_free_steps:
            self._num_free_steps -= 1
            return
        self.arrived.set()
        assert self.opened.wait(10)


async def text_of(engine: AsyncEngine, request_id: str, prompt: list[int], params: SamplingParams) -> str:
    return "".join([delta.text async for delta in engine.submit(request_id, prompt, params)])


async def until_idle(engine: AsyncEngine) -> None:
    """Bounded wait for the engine's thread to have taken in what was posted."""
    async with asyncio.timeout(10):
        while engine.num_running or engine.num_waiting:
            await asyncio.sleep(0.001)  # a poll, so that the engine's thread gets the interpreter


async def test_a_stream_yields_the_reply_token_by_token():
    with running(logits=count_up) as engine:
        deltas = [delta async for delta in engine.submit("a", [0], greedy(max_tokens=3))]
    assert [(delta.token_ids, delta.text) for delta in deltas] == [((1,), "b"), ((2,), "c"), ((3,), "d")]
    assert deltas[-1].finish_reason == "length"


@pytest.mark.requirement("E4", "E8")
async def test_many_streams_at_once_each_get_their_own_reply():
    prompts = [[number, 2, 3] for number in range(12)]
    expected = [run(make_engine(), (prompt, sampled(seed=7)))[0].outputs[0].text for prompt in prompts]
    with running(max_queue_size=64) as engine:
        texts = await asyncio.gather(*(text_of(engine, str(p), p, sampled(seed=7)) for p in prompts))
    assert texts == expected


async def test_only_requests_of_one_salt_share_computed_prompts():
    prompt, salts = [1] * 20, ("", "app_1", "", "app_1", "app_2")
    with running(prefix_cache=True) as engine:
        cached = []
        for number, salt in enumerate(salts):
            deltas = [d async for d in engine.submit(str(number), prompt, greedy(max_tokens=2), cache_salt=salt)]
            assert deltas[-1].stats is not None
            cached.append(deltas[-1].stats.num_cached_tokens)
    assert cached == [0, 0, 16, 16, 0]


async def test_a_stream_of_two_replies_ends_with_the_second():
    with running() as engine:
        deltas = [delta async for delta in engine.submit("a", [0], sampled(seed=1, n=2, max_tokens=3))]
    assert sorted(delta.index for delta in deltas) == [0, 0, 0, 1, 1, 1]


@pytest.mark.requirement("E4")
async def test_a_consumer_that_goes_away_ends_its_request():
    gate = Gate(num_free_steps=2)
    with running(executor=ScriptedExecutor(before_step=gate)) as engine:
        stream = engine.submit("a", [0], greedy(max_tokens=50))
        await anext(stream)
        await stream.aclose()
        gate.opened.set()
        await until_idle(engine)
        assert engine.metrics.num_finished["abort"] == 1
        assert engine.cache_usage == 0.0


@pytest.mark.requirement("E4")
async def test_a_cancelled_task_ends_its_request():
    gate = Gate(num_free_steps=2)
    with running(executor=ScriptedExecutor(before_step=gate)) as engine:
        task = asyncio.create_task(text_of(engine, "a", [0], greedy(max_tokens=50)))
        await asyncio.to_thread(gate.arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        await until_idle(engine)
        assert engine.metrics.num_finished["abort"] == 1


async def test_a_refused_request_raises_its_error_and_the_others_go_on():
    with running(logits=count_up) as engine:
        with pytest.raises(InvalidParameterError):
            await text_of(engine, "a", [], greedy())
        assert await text_of(engine, "b", [0], greedy(max_tokens=2)) == "bc"


async def test_a_duplicate_id_is_refused_and_does_not_end_the_first():
    gate = Gate()
    with running(executor=ScriptedExecutor(logits=count_up, before_step=gate)) as engine:
        first = asyncio.create_task(text_of(engine, "a", [0], greedy(max_tokens=2)))
        second = asyncio.create_task(text_of(engine, "a", [0], greedy()))
        await asyncio.to_thread(gate.arrived.wait, 10)
        gate.opened.set()
        with pytest.raises(InvalidParameterError, match="in use"):
            await second
        assert await first == "bc"


@pytest.mark.requirement("E4")
async def test_a_full_queue_refuses_at_once():
    gate = Gate()
    with running(executor=ScriptedExecutor(before_step=gate), max_num_seqs=1, max_queue_size=2) as engine:
        tasks = [asyncio.create_task(text_of(engine, str(number), [0], greedy(max_tokens=1))) for number in range(6)]
        await asyncio.to_thread(gate.arrived.wait, 10)
        gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {str, OverloadedError}


class Panic(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize("error", [ValueError("kernel on fire"), Panic("kernel on fire")])
async def test_a_crash_ends_every_request_and_later_ones_are_refused(error: BaseException):
    gate = Gate()

    def crash() -> None:
        gate()
        raise error

    with running(executor=ScriptedExecutor(before_step=crash), max_num_seqs=1) as engine:
        tasks = [asyncio.create_task(text_of(engine, str(number), [0], greedy())) for number in range(3)]
        await asyncio.to_thread(gate.arrived.wait, 10)
        gate.opened.set()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 3
        assert "kernel on fire" in str(results[0])
        assert not engine.is_alive
        with pytest.raises(EngineError, match="kernel on fire"):
            await text_of(engine, "late", [0], greedy())


async def test_closing_ends_what_is_running_with_an_error():
    gate = Gate()
    engine = AsyncEngine(make_engine(executor=ScriptedExecutor(before_step=gate)))
    task = asyncio.create_task(text_of(engine, "a", [0], greedy()))
    await asyncio.to_thread(gate.arrived.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    async with asyncio.timeout(10):
        while engine.is_alive:
            await asyncio.sleep(0.001)
    gate.opened.set()
    await closing
    with pytest.raises(EngineError):
        async with asyncio.timeout(10):
            await task
    with pytest.raises(EngineError, match="closed"):
        await text_of(engine, "b", [0], greedy())


async def test_a_row_without_any_possible_token_raises_in_its_own_stream_only():
    def broken(context):
        return count_up(context) * float("nan") if context[0] == 9 else count_up(context)

    with running(logits=broken) as engine:
        results = await asyncio.gather(
            text_of(engine, "a", [9], greedy()), text_of(engine, "b", [0], greedy(max_tokens=2)), return_exceptions=True
        )
    assert isinstance(results[0], EngineError)
    assert results[1] == "bc"


async def test_books_that_do_not_balance_stop_an_idle_engine():
    inner = make_engine()
    leaked = inner.scheduler._pool.try_allocate(1)
    assert leaked == [0]
    engine = AsyncEngine(inner, idle_check_seconds=0.0)
    async with asyncio.timeout(10):
        while engine.is_alive:
            await asyncio.sleep(0.001)
    with pytest.raises(EngineError, match="block 0 has 1 references and 0 holders"):
        await text_of(engine, "a", [0], greedy())
    engine.close()


def test_an_event_loop_that_closes_early_does_not_stop_the_engine():
    gate = Gate(num_free_steps=2)
    with running(executor=ScriptedExecutor(logits=count_up, before_step=gate)) as engine:

        async def first_token() -> RequestDelta:
            return await anext(engine.submit("a", [0], greedy(max_tokens=50)))

        loop = asyncio.new_event_loop()
        loop.run_until_complete(first_token())
        loop.close()
        gate.opened.set()
        assert asyncio.run(text_of(engine, "b", [0], greedy(max_tokens=2))) == "bc"
        asyncio.run(until_idle(engine))
