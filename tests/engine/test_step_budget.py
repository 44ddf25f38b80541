"""Beside running streams a step takes at most so long, whatever a prompt token costs. Requests run out of time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from glm_crush.engine.deadlines import Deadlines
from glm_crush.engine.engine import Engine
from glm_crush.engine.scheduled_batch import ScheduledBatch
from glm_crush.engine.step_budget import StepBudget
from glm_crush.errors import DeadlineError
from tests.engine.scripted import ScriptedExecutor, greedy, make_engine, run, run_deltas

pytestmark = pytest.mark.requirement("E4")


class Clock:
    """Each step takes what its tokens cost; `cost(num_tokens, depth)` in seconds."""

    def __init__(self, cost: Callable[[int, int], float]) -> None:
        self.now = 0.0
        self.deepest = 0
        self._cost = cost

    def __call__(self) -> float:
        return self.now

    def executor(self) -> ScriptedExecutor:
        clock = self

        class Timed(ScriptedExecutor):
            def forward(self, batch):  # type: ignore[no-untyped-def]
                clock.deepest = max(clock.deepest, int(batch.context_lens.max()))
                clock.now += clock._cost(len(batch.token_ids), int(batch.context_lens.max()))
                return super().forward(batch)

        return Timed(num_blocks=4000)


def make(clock: Clock, max_seconds: float = 0.15, max_tokens: int = 512, *, prefix_cache: bool = False) -> Engine:
    engine = make_engine(
        executor=clock.executor(),
        num_blocks=4000,
        clock=clock,
        max_context=6000,
        token_budget=max_tokens,
        prefix_cache=prefix_cache,
    )
    engine._step_budget = StepBudget(max_seconds=max_seconds, max_tokens=max_tokens)
    return engine


COSTS = {
    "a quick model": lambda tokens, depth: 0.002 + tokens * 0.0002,
    "a slow model": lambda tokens, depth: 0.030 + tokens * 0.0025,
    "attention that grows with depth": lambda tokens, depth: 0.005 + tokens * (0.0003 + depth * 4e-7),
}


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
def test_no_gap_of_a_running_stream_exceeds_the_limit_while_a_long_prompt_comes_in(cost: Callable[[int, int], float]):
    clock = Clock(cost)
    engine = make(clock)
    engine.add_request([1], greedy(max_tokens=4000), request_id="stream")
    for _ in range(5):
        engine.step()
    engine.add_request(list(range(50)) * 80, greedy(max_tokens=1), request_id="prompt")
    gaps, num_steps = [], 0
    while "prompt" in engine._requests:
        before = clock.now
        engine.step()
        gaps.append(clock.now - before)
        num_steps += 1
    assert max(gaps) <= 0.15  # the first chunk too, before which only single tokens had been measured
    assert sum(gaps) / len(gaps) > 0.06  # and no time is wasted on chunks that are too small
    engine.abort("stream")


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
def test_a_prompt_whose_beginning_is_cached_keeps_to_the_limit_at_its_depth(cost: Callable[[int, int], float]):
    """What was learnt from shallow prompts does not hold behind thousands of tokens."""
    clock = Clock(cost)
    engine = make(clock, prefix_cache=True)
    document = list(range(50)) * 100
    engine.add_request([*document, 1], greedy(max_tokens=1))
    run_deltas(engine)
    engine._step_budget = StepBudget(max_seconds=0.15, max_tokens=512)  # as if it had been restored from disk
    engine.add_request([1], greedy(max_tokens=600), request_id="stream")
    for number in range(12):
        engine.add_request([number, 2] * 256, greedy(max_tokens=1))
    while len(engine._requests) > 1:
        engine.step()
    engine.add_request([*document, *([3] * 700)], greedy(max_tokens=1), request_id="prompt")
    gaps = []
    while "prompt" in engine._requests:
        before = clock.now
        engine.step()
        gaps.append(clock.now - before)
    assert clock.deepest >= 5000
    assert max(gaps) <= 0.15
    engine.abort("stream")


def test_a_prompt_alone_is_not_cut_smaller():
    clock = Clock(lambda tokens, depth: tokens * 0.01)
    engine = make(clock)
    engine.add_request([1] * 1000, greedy(max_tokens=1))
    run_deltas(engine)
    assert [tokens for tokens, _ in engine._runner._executor.steps] == [512, 488]


def test_a_prompt_gets_on_even_where_one_chunk_is_too_long():
    clock = Clock(lambda tokens, depth: tokens * 1.0)
    engine = make(clock)
    engine.add_request([1], greedy(max_tokens=200), request_id="stream")
    engine.step()
    engine.add_request([1] * 200, greedy(max_tokens=1), request_id="prompt")
    num_steps = 0
    while "prompt" in engine._requests:
        engine.step()
        num_steps += 1
    assert num_steps == 13  # of 16 tokens
    engine.abort("stream")


def test_replies_do_not_depend_on_how_the_clock_cuts_the_prompt():
    def replies(cost: Callable[[int, int], float]) -> list[tuple[int, ...]]:
        engine = make(Clock(cost))
        return [o.outputs[0].token_ids for o in run(engine, *(([n, 2] * 60, greedy(max_tokens=20)) for n in range(4)))]

    assert replies(COSTS["a slow model"]) == replies(COSTS["a quick model"])


def test_a_step_without_anything_says_nothing():
    budget = StepBudget(max_seconds=0.1, max_tokens=512)
    budget.record(ScheduledBatch(()), 5.0)
    assert budget.max_tokens_at(0) == 64


def timed_engine(**options: object) -> tuple[Engine, Clock]:
    clock = Clock(lambda tokens, depth: 1.0)
    return make_engine(executor=clock.executor(), num_blocks=2000, clock=clock, **options), clock


def test_a_waiting_request_past_its_deadline_is_refused_and_computes_nothing():
    engine, _ = timed_engine(max_num_seqs=1)
    engine.add_request([1], greedy(max_tokens=10), request_id="first")
    engine.add_request([2], greedy(max_tokens=10), request_id="late", deadline_seconds=3.5)
    deltas = [delta for delta in run_deltas(engine) if delta.request_id == "late"]
    [delta] = deltas
    assert isinstance(delta.error, DeadlineError)
    assert str(delta.error).startswith("the deadline of 3.5 s passed before the request had its turn")
    assert (delta.token_ids, delta.finish_reason, delta.stats.queue_seconds) == ((), "abort", None)


def test_a_running_request_past_its_deadline_ends_with_what_it_has_and_an_error():
    engine, _ = timed_engine()
    engine.add_request([1], greedy(max_tokens=10), request_id="slow", deadline_seconds=3.5)
    engine.add_request([2], greedy(max_tokens=10), request_id="other")
    deltas = run_deltas(engine)
    slow = [delta for delta in deltas if delta.request_id == "slow"]
    assert sum(len(delta.token_ids) for delta in slow) == 4
    assert "in the middle of the reply" in str(slow[-1].error)
    assert slow[-1].finish_reason == "abort"
    assert sum(len(delta.token_ids) for delta in deltas if delta.request_id == "other") == 10


def test_a_default_deadline_holds_for_requests_that_come_without():
    engine, _ = timed_engine()
    engine.deadlines = Deadlines(default_seconds=2.5)
    engine.add_request([1], greedy(max_tokens=10), request_id="a")
    engine.add_request([1], greedy(max_tokens=10), request_id="b", deadline_seconds=60.0)
    errors = {delta.request_id: delta.error for delta in run_deltas(engine) if delta.finish_reason is not None}
    assert isinstance(errors["a"], DeadlineError)
    assert errors["b"] is None


def test_a_deadline_ends_with_its_request():
    deadlines = Deadlines()
    deadlines.add("a", 0.0, 5.0)
    deadlines.forget("a")
    deadlines.add("a", 3.0, 5.0)  # the id is used again
    assert deadlines.expired(5.5) == []
    assert deadlines.expired(8.0) == [("a", 5.0)]
    assert deadlines.expired(9.0) == []
