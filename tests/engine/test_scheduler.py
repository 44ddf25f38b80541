"""The scheduler as a specification: budget, order, chunks, preemption, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.scheduler import ScheduledBatch, Scheduler
from glm_crush.errors import ContextLengthError, OverloadedError
from glm_crush.types import SamplingParams
from tests.engine.scripted import make_limits


def make_scheduler(*, num_blocks: int = 64, **limits: int) -> Scheduler:
    return Scheduler(make_limits(**limits), BlockPool(num_blocks, 4))


def make_request(name: str, num_prompt_tokens: int, *, max_tokens: int = 8, **overrides: int | None) -> Request:
    priority = overrides.pop("priority", 0)
    params = SamplingParams(max_tokens=max_tokens, **overrides)
    return Request(name, range(num_prompt_tokens), params, max_tokens=max_tokens, priority=priority)


def step(scheduler: Scheduler) -> ScheduledBatch:
    batch = scheduler.schedule()
    complete(scheduler, batch)
    scheduler.check_integrity()
    return batch


def complete(scheduler: Scheduler, batch: ScheduledBatch) -> None:
    """Pretend that the step was computed and drew token 7 everywhere."""
    scheduler.update(batch)
    for scheduled in batch.requests:
        if scheduled.samples:
            scheduled.request.token_ids.extend([7] * batch.num_decode_steps)


def summary(batch: ScheduledBatch) -> dict[str, tuple[int, int]]:
    return {s.request.request_id: (s.start, s.num_tokens) for s in batch.requests}


@pytest.mark.requirement("E4")
def test_a_long_prompt_is_computed_in_chunks_and_samples_with_the_last():
    scheduler = make_scheduler(token_budget=8)
    scheduler.add([make_request("a", 18)])
    batches = [step(scheduler) for _ in range(4)]
    assert [summary(batch) for batch in batches] == [{"a": (0, 8)}, {"a": (8, 8)}, {"a": (16, 2)}, {"a": (18, 1)}]
    assert [batch.requests[0].samples for batch in batches] == [False, False, True, True]


@pytest.mark.requirement("E4")
def test_decoding_requests_get_their_token_while_an_earlier_prompt_is_still_being_computed():
    scheduler = make_scheduler(token_budget=8)
    scheduler.add([make_request("short", 3), make_request("tiny", 2)])
    step(scheduler)
    scheduler.add([make_request("urgent", 40, priority=-1)])
    assert summary(step(scheduler)) == {"short": (3, 1), "tiny": (2, 1), "urgent": (0, 6)}
    assert summary(step(scheduler)) == {"urgent": (6, 6), "short": (4, 1), "tiny": (3, 1)}


@pytest.mark.requirement("E4")
def test_what_the_budget_leaves_goes_to_the_next_in_the_queue():
    scheduler = make_scheduler(token_budget=8)
    scheduler.add([make_request("a", 5)])
    scheduler.add([make_request("b", 5)])
    assert summary(step(scheduler)) == {"a": (0, 5), "b": (0, 3)}
    assert summary(step(scheduler)) == {"a": (5, 1), "b": (3, 2)}


def test_lower_priority_numbers_go_first_and_equal_ones_in_order_of_arrival():
    scheduler = make_scheduler(max_num_seqs=1)
    scheduler.add([make_request("first", 2), make_request("second", 2), make_request("urgent", 2, priority=-1)])
    order = []
    while scheduler.has_unfinished:
        request = step(scheduler).requests[0].request
        order.append(request.request_id)
        scheduler.finish(request, "stop")
    assert order == ["urgent", "first", "second"]


def test_nobody_overtakes_a_head_of_the_queue_that_waits_for_blocks():
    scheduler = make_scheduler(num_blocks=6)
    scheduler.add([make_request("a", 16), make_request("big", 12), make_request("small", 1)])
    assert summary(step(scheduler)) == {"a": (0, 16)}
    assert [request.request_id for request in scheduler.waiting] == ["big", "small"]


def test_a_newcomer_leaves_each_running_request_a_block_for_its_next_token():
    scheduler = make_scheduler(num_blocks=3)
    scheduler.add([make_request("a", 4)])
    step(scheduler)
    scheduler.add([make_request("b", 4, max_tokens=4)])
    assert summary(step(scheduler)) == {"a": (4, 1)}


@pytest.mark.requirement("E4", "E5")
def test_the_last_in_order_is_preempted_when_blocks_run_out_and_computed_again_later():
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add([make_request("a", 7), make_request("b", 3)])
    assert summary(step(scheduler)) == {"a": (0, 7), "b": (0, 3)}
    assert summary(step(scheduler)) == {"a": (7, 1), "b": (3, 1)}
    batch = step(scheduler)  # both cross into a new block and one is left
    assert summary(batch) == {"a": (8, 1)}
    loser = batch.preempted[0]
    assert (loser.request_id, loser.num_tokens, loser.num_computed_tokens, loser.status) == (
        "b",
        5,
        0,
        RequestStatus.WAITING,
    )
    scheduler.finish(batch.requests[0].request, "stop")
    assert summary(step(scheduler)) == {"b": (0, 5)}


def test_logprobs_of_the_prompt_come_in_bounded_numbers_and_once():
    scheduler = make_scheduler(max_scored_rows=3)
    scheduler.add([make_request("a", 6, prompt_logprobs=0)])
    request = scheduler.waiting[0]
    scored = []
    for _ in range(3):
        part = scheduler.schedule().requests[0]
        scored.append(list(part.scored))
        request.prompt_logprobs += [None] * len(part.scored)
        complete(scheduler, ScheduledBatch((part,)))
    assert scored == [[1, 2, 3], [4, 5], []]


@pytest.mark.requirement("E9")
def test_a_request_longer_than_the_context_is_refused_with_the_numbers():
    scheduler = make_scheduler()
    message = "The prompt has 125 tokens and max_tokens is 8, together 133; the context holds 128"
    with pytest.raises(ContextLengthError, match=message) as caught:
        scheduler.add([make_request("a", 125)])
    assert caught.value.parameter == "max_tokens"
    with pytest.raises(ContextLengthError) as caught:
        scheduler.add([make_request("a", 128)])
    assert caught.value.parameter == "prompt"
    assert not scheduler.has_unfinished


@pytest.mark.requirement("E5")
def test_a_request_that_the_whole_cache_cannot_hold_is_refused_with_the_numbers():
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add([make_request("fits", 9, max_tokens=8)])
    with pytest.raises(ContextLengthError, match="the KV cache holds 16 tokens"):
        scheduler.add([make_request("too long", 10, max_tokens=8)])


@pytest.mark.requirement("E4")
def test_a_full_queue_refuses_and_says_how_full_it_is():
    scheduler = make_scheduler(max_queue_size=2)
    scheduler.add([make_request("a", 2), make_request("b", 2)])
    with pytest.raises(OverloadedError, match="2 requests are waiting and the queue holds 2"):
        scheduler.add([make_request("c", 2)])


def test_finishing_a_waiting_request_takes_it_out_of_the_queue():
    scheduler = make_scheduler(max_num_seqs=1)
    requests = [make_request(name, 2) for name in "abc"]
    scheduler.add(requests)
    step(scheduler)
    scheduler.finish(requests[1], "abort")
    scheduler.check_integrity()
    assert [request.request_id for request in scheduler.waiting] == ["c"]


def test_the_policy_loads_without_numpy():
    code = (
        "import sys, glm_crush.engine.scheduler, glm_crush.engine.block_pool; "
        "print([m for m in sys.modules if m == 'numpy' or 'kernels' in m or 'models' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
