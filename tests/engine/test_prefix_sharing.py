"""The scheduler with a prefix cache: who computes what, who waits for whom, and what comes back after a preemption."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import Scheduler
from glm_crush.types import CacheReport, SamplingParams
from tests.engine.scripted import greedy, make_engine, make_limits, run, run_deltas, sampled
from tests.engine.test_scheduler import complete, step, summary

PREFIX = list(range(20))


def make_scheduler(*, num_blocks: int = 64, **limits: int) -> Scheduler:
    pool = BlockPool(num_blocks, 4)
    return Scheduler(make_limits(**limits), pool, PrefixCache(pool))


def make_request(name: str, prompt: Sequence[int], *, max_tokens: int = 8, priority: int = 0, **params) -> Request:
    return Request(name, prompt, SamplingParams(**params), max_tokens=max_tokens, priority=priority)


@pytest.mark.requirement("E6")
def test_a_later_request_computes_what_is_new_in_it():
    scheduler = make_scheduler()
    scheduler.add([make_request("a", PREFIX)])
    step(scheduler)
    scheduler.add([make_request("b", [*PREFIX, 30, 31])])
    assert summary(step(scheduler)) == {"a": (20, 1), "b": (20, 2)}
    a, b = scheduler.running
    assert a.block_table[:5] == b.block_table[:5]


@pytest.mark.requirement("E6")
def test_blocks_outlive_their_request_and_the_reply_is_cached_too():
    scheduler = make_scheduler()
    request = make_request("turn 1", PREFIX[:10])
    scheduler.add([request])
    for _ in range(4):
        step(scheduler)
    scheduler.finish(request, "stop")
    scheduler.check_integrity()
    scheduler.add([make_request("turn 2", [*PREFIX[:10], 7, 7, 7, 7, 30, 31])])  # 13 of these are in the cache
    assert summary(step(scheduler)) == {"turn 2": (12, 4)}


@pytest.mark.requirement("E6")
def test_a_prompt_known_as_a_whole_is_computed_from_its_last_block_on():
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add([make_request(name, PREFIX)])
        batch = step(scheduler)
        assert batch.requests[0].samples
        scheduler.finish(batch.requests[0].request, "stop")
    assert summary(batch) == {"b": (16, 4)}


@pytest.mark.requirement("E6")
def test_requests_that_come_together_compute_their_common_beginning_once():
    scheduler = make_scheduler(token_budget=64)
    scheduler.add([make_request(name, [*PREFIX, token]) for name, token in (("a", 30), ("b", 31), ("c", 32))])
    assert summary(step(scheduler)) == {"a": (0, 21)}
    assert summary(step(scheduler)) == {"a": (21, 1), "b": (20, 1), "c": (20, 1)}


@pytest.mark.requirement("E6")
def test_a_follower_waits_through_every_chunk_of_the_owner():
    scheduler = make_scheduler(token_budget=8)
    scheduler.add([make_request("a", [*PREFIX, 30]), make_request("b", [*PREFIX, 31])])
    assert [summary(step(scheduler)) for _ in range(4)] == [
        {"a": (0, 8)},
        {"a": (8, 8)},
        {"a": (16, 5)},
        {"a": (21, 1), "b": (20, 1)},
    ]


@pytest.mark.requirement("E6")
def test_a_follower_starts_as_soon_as_it_parts_from_the_owner():
    scheduler = make_scheduler(token_budget=64)
    scheduler.add([make_request("a", PREFIX)])
    scheduler.add([make_request("b", [*PREFIX[:6], *range(30, 40)])])
    assert summary(step(scheduler)) == {"a": (0, 20)}
    assert summary(step(scheduler)) == {"a": (20, 1), "b": (4, 12)}


@pytest.mark.requirement("E4", "E6")
def test_requests_behind_a_follower_do_not_wait_with_it():
    scheduler = make_scheduler(token_budget=64)
    scheduler.add([make_request("a", PREFIX), make_request("b", PREFIX), make_request("other", range(30, 40))])
    assert summary(step(scheduler)) == {"a": (0, 20), "other": (0, 10)}


@pytest.mark.requirement("E4", "E6")
def test_a_follower_whose_owner_is_aborted_computes_the_rest_itself():
    scheduler = make_scheduler(token_budget=8)
    owner = make_request("a", PREFIX)
    scheduler.add([owner, make_request("b", [*PREFIX, 31])])
    step(scheduler)
    scheduler.finish(owner, "abort")
    assert summary(step(scheduler)) == {"b": (8, 8)}


@pytest.mark.requirement("E4", "E6")
def test_a_preempted_request_finds_what_is_left_of_its_blocks():
    scheduler = make_scheduler(num_blocks=5)
    scheduler.add([make_request("a", range(7)), make_request("b", range(20, 27))])
    step(scheduler)
    step(scheduler)  # both reach the end of their second block
    batch = step(scheduler)
    assert [request.request_id for request in batch.preempted] == ["b"]
    scheduler.finish(batch.requests[0].request, "stop")
    assert summary(step(scheduler)) == {"b": (8, 1)}


@pytest.mark.requirement("E6")
def test_prompt_tokens_that_are_to_be_scored_are_computed_though_they_are_cached():
    scheduler = make_scheduler()
    scheduler.add([make_request("a", PREFIX)])
    step(scheduler)
    scheduler.add([make_request("b", PREFIX, prompt_logprobs=0)])
    batch = scheduler.schedule()
    assert summary(batch)["b"] == (0, 20)
    part = next(part for part in batch.requests if part.request.request_id == "b")
    part.request.prompt_logprobs += [None] * len(part.scored)
    complete(scheduler, batch)
    scheduler.schedule()
    a, b = scheduler.running
    assert a.block_table[:5] == b.block_table[:5]  # equal blocks became one


@pytest.mark.requirement("E6")
def test_without_a_cache_nothing_is_shared():
    scheduler = Scheduler(make_limits(token_budget=64), BlockPool(64, 4))
    scheduler.add([make_request(name, PREFIX) for name in "ab"])
    assert summary(step(scheduler)) == {"a": (0, 20), "b": (0, 20)}


@pytest.mark.requirement("E6")
def test_usage_and_metrics_count_cached_tokens():
    engine = make_engine(prefix_cache=True)
    [first] = run(engine, (PREFIX, greedy(2)))
    [second] = run(engine, (PREFIX, greedy(2)))
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 16)
    assert first.outputs == second.outputs
    assert (engine.metrics.prefix_cache_queries, engine.metrics.prefix_cache_hits) == (40, 16)


@pytest.mark.requirement("E6")
def test_several_replies_share_the_prompt_and_usage_counts_what_was_computed():
    engine = make_engine(prefix_cache=True, token_budget=128)
    [output] = run(engine, (PREFIX[:18], sampled(4, seed=1, n=3)))
    assert output.usage.cached_tokens == 0
    assert output.cache_report == CacheReport(0, 0, "new")
    assert engine.metrics.num_computed_tokens == 18 + 3 * 3  # the prompt, replies
    assert [run(make_engine(), (PREFIX[:18], sampled(4, seed=1, n=3)))[0].outputs] == [output.outputs]


@pytest.mark.requirement("E6")
def test_salts_keep_requests_apart_and_the_last_delta_explains_the_miss():
    engine = make_engine(prefix_cache=True)
    reports = []
    for salt in ("a", "a", "b"):
        engine.add_request(PREFIX, greedy(1), cache_salt=salt)
        reports.append(run_deltas(engine)[-1].stats.cache_report)
    assert [(report.num_cached_tokens, report.reason) for report in reports] == [
        (0, "new"),
        (16, "complete"),
        (0, "new"),
    ]


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("limits", [{}, {"num_blocks": 14}, {"token_budget": 9, "max_num_seqs": 3}])
def test_replies_are_the_same_with_and_without_the_cache(limits):
    requests = [
        ([*PREFIX[:cut], *range(cut % 7)], sampled(9, seed=cut, n=1 + cut % 2, frequency_penalty=0.5 * (cut % 3)))
        for cut in (3, 20, 20, 12, 17, 8, 20)
    ]
    requests += [(PREFIX, greedy(6, logprobs=1)), (PREFIX, greedy(6, prompt_logprobs=1))]
    expected = [(output.outputs, output.prompt_logprobs) for output in run(make_engine(), *requests)]
    engine = make_engine(prefix_cache=True, max_decode_steps=4, **limits)
    for _ in range(2):
        outputs = run(engine, *requests)
        assert [(output.outputs, output.prompt_logprobs) for output in outputs] == expected
    assert engine.metrics.prefix_cache_hits > 0
