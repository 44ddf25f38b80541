"""Several tokens per call: the same replies, ended in the same places, in fewer calls."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.engine.engine import Engine
from glm_crush.engine.pacing import DecodePacer
from glm_crush.types import SamplingParams
from tests.engine.scripted import (
    VOCAB_SIZE,
    ScriptedExecutor,
    greedy,
    logits_for,
    make_engine,
    run,
    run_deltas,
    sampled,
)

count_up = logits_for(lambda context: (context[-1] + 1) % VOCAB_SIZE)
PROMPTS = [[1, 2, 3], list(range(40)), [7] * 9, [5], list(range(20, 45)), [9, 8, 7, 6]]


def make_hasty(**options) -> Engine:
    """An engine whose clock stands still, so that the pacer takes as many steps per call as it may."""
    return make_engine(**{"max_decode_steps": 4, "clock": lambda: 0.0, **options})


@pytest.mark.requirement("E8")
def test_replies_do_not_depend_on_how_many_tokens_a_call_draws():
    params = [greedy(21), sampled(13, seed=3, top_p=0.9), sampled(9, seed=4, stop=["b"]), sampled(30, seed=5)] * 2
    requests = list(zip(PROMPTS, params, strict=False))
    expected = [output.outputs for output in run(make_engine(), *requests)]
    executor = ScriptedExecutor()
    assert [output.outputs for output in run(make_hasty(executor=executor), *requests)] == expected
    assert max(executor.decode_calls) == 4


def test_the_first_token_of_a_reply_never_waits_for_others():
    engine = make_hasty(logits=count_up)
    engine.add_request([0], greedy(max_tokens=9))
    run_deltas(engine)
    engine.add_request([0], greedy(max_tokens=9))
    assert [len(delta.token_ids) for delta in run_deltas(engine)] == [1, 4, 4]


def test_calls_stop_at_the_length_of_the_shortest_reply():
    executor = ScriptedExecutor(logits=count_up)
    engine = make_hasty(executor=executor)
    engine.add_request([0], greedy(max_tokens=7))
    assert [delta.text for delta in run_deltas(engine)] == ["b", "cdef", "gh"]
    assert executor.decode_calls == [4, 2]


def test_what_a_call_drew_beyond_a_stop_is_dropped():
    engine = make_hasty(logits=count_up, eos_token_ids=[4])
    engine.add_request([0], greedy(max_tokens=20))
    deltas = run_deltas(engine)
    assert [delta.token_ids for delta in deltas] == [(1,), (2, 3, 4)]
    assert (deltas[-1].text, deltas[-1].finish_reason) == ("cd", "stop")
    assert engine.metrics.num_output_tokens == 4


def test_a_newcomer_ends_the_long_calls_until_it_decodes_too():
    executor = ScriptedExecutor(logits=count_up)
    engine = make_hasty(executor=executor)
    engine.add_request([0], greedy(max_tokens=40))
    for _ in range(3):
        engine.step()
    engine.add_request([1] * 40, greedy(max_tokens=40))
    calls = []
    for _ in range(3):
        before = len(executor.decode_calls)
        engine.step()
        calls.append(executor.decode_calls[before:])
    assert calls == [[], [], [4]]


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"logprobs": 0},
        {"min_tokens": 6},
    ],
)
def test_requests_whose_next_draw_needs_python_get_single_steps(params):
    executor = ScriptedExecutor()
    run(make_hasty(executor=executor), ([1], greedy(max_tokens=6, **params)))
    assert executor.decode_calls == []


def test_a_call_takes_no_more_steps_than_the_cache_has_blocks_for():
    requests = [([1, 2, 3], sampled(20, seed=1)), ([4, 5], sampled(20, seed=2))]
    expected = [output.outputs for output in run(make_engine(), *requests)]
    assert [output.outputs for output in run(make_hasty(num_blocks=7), *requests)] == expected


def test_a_row_that_runs_dry_within_a_call_ends_alone():
    def dries_up(context):
        if len(context) > 4 and context[0] == 9:
            return np.full(VOCAB_SIZE, np.nan, np.float32)
        return count_up(context)

    engine = make_hasty(logits=dries_up)
    engine.add_request([9], greedy(max_tokens=9), request_id="dry")
    engine.add_request([0], greedy(max_tokens=9), request_id="fine")
    text = {"dry": "", "fine": ""}
    for delta in run_deltas(engine):
        text[delta.request_id] += delta.text
        assert (delta.error is not None) == (delta.finish_reason == "abort")
    assert text == {"dry": "klmn", "fine": "bcdefghij"}


def test_the_pacer_keeps_calls_near_their_target():
    pacer = DecodePacer(max_steps=8, target_seconds=0.016)
    chosen = [pacer.num_steps]
    for _ in range(6):
        pacer.record(pacer.num_steps, 0.003 * pacer.num_steps)
        chosen.append(pacer.num_steps)
    assert chosen == [1, 5, 5, 5, 5, 5, 5]
    for _ in range(12):
        pacer.record(pacer.num_steps, 0.05 * pacer.num_steps)
    assert pacer.num_steps == 1


def test_a_seed_is_drawn_once_per_token_across_calls():
    params = SamplingParams(seed=11, max_tokens=17)
    [alone] = run(make_engine(), ([3], params))
    [hasty] = run(make_hasty(max_decode_steps=8), ([3], params))
    assert hasty.outputs == alone.outputs
