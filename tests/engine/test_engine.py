"""The engine end to end on a scripted executor: replies, ends, batching, preemption, failures."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.engine.output import OutputCollector
from glm_crush.errors import EngineError, InvalidParameterError, OverloadedError
from glm_crush.types import SamplingParams
from tests.engine.scripted import (
    VOCAB_SIZE,
    ScriptedExecutor,
    greedy,
    logits_for,
    make_engine,
    random_logits,
    run,
    run_deltas,
    sampled,
)

count_up = logits_for(lambda context: (context[-1] + 1) % VOCAB_SIZE)
PROMPTS = [[1, 2, 3], list(range(40)), [7] * 9, [5], list(range(20, 45)), [9, 8, 7, 6]]


@pytest.mark.requirement("E1")
def test_a_reply_runs_to_max_tokens_and_is_counted():
    [output] = run(make_engine(logits=count_up), ([0], greedy(max_tokens=4)))
    assert output.outputs[0].token_ids == (1, 2, 3, 4)
    assert output.outputs[0].text == "bcde"
    assert output.outputs[0].finish_reason == "length"
    assert (output.usage.prompt_tokens, output.usage.completion_tokens) == (1, 4)


@pytest.mark.requirement("E1")
def test_an_end_of_text_token_ends_the_reply_and_has_no_text():
    [output] = run(make_engine(logits=count_up, eos_token_ids=[3]), ([0], greedy()))
    reply = output.outputs[0]
    assert (reply.token_ids, reply.text, reply.finish_reason, reply.stop_reason) == ((1, 2, 3), "bc", "stop", None)


@pytest.mark.requirement("E1")
def test_a_stop_token_of_the_request_is_named_as_the_reason():
    [output] = run(make_engine(logits=count_up), ([0], greedy(stop_token_ids=[2])))
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == ("b", 2)


@pytest.mark.requirement("E1")
def test_ignore_eos_goes_on_to_max_tokens():
    [output] = run(make_engine(logits=count_up, eos_token_ids=[3]), ([0], greedy(max_tokens=5, ignore_eos=True)))
    assert output.outputs[0].text == "bcdef"


@pytest.mark.requirement("E1")
def test_a_stop_string_across_tokens_is_never_emitted():
    engine = make_engine(logits=count_up)
    engine.add_request([0], greedy(max_tokens=20, stop=["def"]))
    deltas = run_deltas(engine)
    assert [delta.text for delta in deltas] == ["b", "c", "", "", ""]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "def")


@pytest.mark.requirement("E1")
def test_text_held_back_for_a_stop_string_comes_out_at_the_end():
    engine = make_engine(logits=count_up)
    engine.add_request([0], greedy(max_tokens=4, stop=["dex"]))
    assert [delta.text for delta in run_deltas(engine)] == ["b", "c", "", "de"]


@pytest.mark.requirement("E1")
def test_nothing_stops_a_reply_before_min_tokens():
    engine = make_engine(logits=count_up, eos_token_ids=[3])
    [output] = run(engine, ([0], greedy(max_tokens=9, min_tokens=5, stop=["c"])))
    reply = output.outputs[0]
    # 3 is banned until five tokens are there, so the next best (0) follows 2, and counting starts again.
    assert reply.token_ids == (1, 2, 0, 1, 2)
    assert (reply.text, reply.finish_reason, reply.stop_reason) == ("bcab", "stop", "c")


def test_max_tokens_none_fills_the_context():
    [output] = run(make_engine(max_context=16), ([1, 2, 3], greedy(max_tokens=None)))
    assert output.usage.completion_tokens == 13


@pytest.mark.requirement("E8")
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch():
    params = [greedy(), sampled(seed=3, top_p=0.9), sampled(seed=4, repetition_penalty=1.3)] * 2
    alone = [run(make_engine(), request)[0].outputs for request in zip(PROMPTS, params, strict=True)]
    together = [output.outputs for output in run(make_engine(), *zip(PROMPTS, params, strict=True))]
    assert together == alone


@pytest.mark.requirement("E8")
@pytest.mark.parametrize(("token_budget", "block_size"), [(8, 4), (9, 1), (13, 16), (128, 3)])
def test_how_prompts_are_cut_into_chunks_makes_no_difference(token_budget, block_size):
    requests = [(prompt, sampled(seed=1, frequency_penalty=0.5)) for prompt in PROMPTS]
    expected = [output.outputs[0].token_ids for output in run(make_engine(), *requests)]
    engine = make_engine(token_budget=token_budget, block_size=block_size, num_blocks=400)
    assert [output.outputs[0].token_ids for output in run(engine, *requests)] == expected


@pytest.mark.requirement("E4", "E8")
def test_preempted_requests_resume_with_the_same_tokens():
    requests = [(prompt[:8], sampled(seed=1, max_tokens=24, presence_penalty=1.0, logprobs=1)) for prompt in PROMPTS]
    expected = [output.outputs for output in run(make_engine(), *requests)]
    engine = make_engine(num_blocks=12)
    assert [output.outputs for output in run(engine, *requests)] == expected
    assert engine.metrics.num_preemptions > 0


@pytest.mark.requirement("E1")
def test_n_replies_draw_from_seeds_counted_up():
    [both] = run(make_engine(), ([1, 2], sampled(seed=10, n=2)))
    [second] = run(make_engine(), ([1, 2], sampled(seed=11)))
    assert both.outputs[0].token_ids != both.outputs[1].token_ids
    assert both.outputs[1].token_ids == second.outputs[0].token_ids


@pytest.mark.requirement("E1")
def test_logprobs_are_those_of_the_models_own_distribution():
    [output] = run(make_engine(), ([1, 2], greedy(max_tokens=1, logprobs=2, logit_bias={4: 100.0})))
    logits = random_logits([1, 2]).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    [entry] = output.outputs[0].logprobs
    assert entry.token_id == 4
    assert entry.logprob == pytest.approx(expected[4], abs=1e-5)
    assert [token for token, _ in entry.top] == np.argsort(-expected)[:2].tolist()


@pytest.mark.requirement("E1")
@pytest.mark.parametrize("limits", [{}, {"token_budget": 9}, {"max_scored_rows": 2}, {"num_blocks": 9}])
def test_prompt_logprobs_score_each_prompt_token_given_those_before_it(limits):
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    other = (list(range(12)), sampled(seed=1, max_tokens=9, repetition_penalty=1.2))
    params = sampled(seed=5, max_tokens=4, prompt_logprobs=1, logit_bias={3: -100.0}, presence_penalty=1.0)
    engine = make_engine(**limits)
    _, output = run(engine, other, (prompt, params))
    assert output.prompt_logprobs[0] is None
    for position in range(1, len(prompt)):
        logits = random_logits(prompt[:position]).astype(np.float64)
        entry = output.prompt_logprobs[position]
        assert entry.token_id == prompt[position]
        assert entry.logprob == pytest.approx(logits[prompt[position]] - np.log(np.exp(logits).sum()), abs=1e-5)
        assert entry.top[0][0] == logits.argmax()
    [alone] = run(make_engine(), (prompt, params))
    assert output.outputs == alone.outputs


def test_every_sampling_parameter_reaches_the_sampler():
    executor = ScriptedExecutor()
    params = SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        min_p=0.25,
        typical_p=0.5,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=0.125,
        logit_bias={9: 2.0},
        seed=-1,
        logprobs=2,
        max_tokens=3,
        min_tokens=3,
        stop_token_ids=[40],
    )
    run(make_engine(executor=executor), ([6, 5, 6], params))
    batch = executor.sample_batches[0]
    assert (batch.temperature[0], batch.top_k[0], batch.top_p[0], batch.min_p[0]) == (0.5, 3, 0.75, 0.25)
    assert (batch.typical_p[0], batch.repetition_penalty[0]) == (0.5, 1.5)
    assert (batch.presence_penalty[0], batch.frequency_penalty[0]) == (0.25, 0.125)
    assert (int(batch.seed[0]), batch.num_logprobs[0]) == (2**64 - 1, 2)
    assert (batch.bias_ids.tolist(), batch.bias_values.tolist()) == ([9, 40], [2.0, -np.inf])
    assert (batch.history_ids.tolist(), batch.history_counts.tolist()) == ([5, 6], [0, 0])


def test_the_ban_on_stop_ids_ends_with_min_tokens():
    executor = ScriptedExecutor(logits=count_up)
    run(make_engine(executor=executor, eos_token_ids=[9]), ([0], greedy(max_tokens=4, min_tokens=2)))
    assert [batch.bias_ids.tolist() for batch in executor.sample_batches] == [[9], [9], [], []]


def test_a_draw_keeps_its_index_when_a_neighbour_comes_and_goes_without_drawing():
    expected = run(make_engine(), ([1], sampled(seed=3)))[0].outputs[0].token_ids
    engine = make_engine(max_scored_rows=2)
    engine.add_request([1], sampled(seed=3))
    first = engine.step()
    engine.add_request(list(range(20)), sampled(prompt_logprobs=0), request_id="scored")
    first += engine.step()
    engine.abort("scored")
    assert sum([delta.token_ids for delta in first + run_deltas(engine)], ()) == expected


def test_histories_count_the_reply_only():
    executor = ScriptedExecutor(logits=logits_for(lambda context: 5))
    penalised = greedy(max_tokens=3, frequency_penalty=0.1)
    run(make_engine(executor=executor), ([6, 5], penalised), ([1], greedy(max_tokens=3)))
    last = executor.sample_batches[-1]
    assert last.history_start.tolist() == [0, 2, 2]
    assert (last.history_ids.tolist(), last.history_counts.tolist()) == ([5, 6], [2, 0])


def test_an_aborted_request_gives_back_its_blocks_and_its_held_text():
    engine = make_engine(logits=count_up)
    engine.add_request([0], greedy(stop=["cx"]), request_id="a")
    other = engine.add_request([0], greedy(max_tokens=3))
    engine.step()
    engine.step()
    [last] = engine.abort("a")
    assert (last.text, last.finish_reason, last.stats.num_output_tokens) == ("c", "abort", 2)
    assert engine.abort("a") == []
    assert {delta.request_id for delta in run_deltas(engine)} == {other}


def test_a_row_without_any_possible_token_ends_its_request_only():
    def broken(context):
        return np.full(VOCAB_SIZE, np.nan, np.float32) if context[0] == 9 else count_up(context)

    engine = make_engine(logits=broken)
    engine.add_request([9], greedy(), request_id="broken")
    engine.add_request([0], greedy(max_tokens=2), request_id="fine")
    deltas = run_deltas(engine)
    assert {d.request_id: (d.finish_reason, d.error is None) for d in deltas if d.finish_reason} == {
        "broken": ("abort", False),
        "fine": ("length", True),
    }


def test_a_step_with_nothing_to_do_does_nothing():
    executor = ScriptedExecutor()
    assert make_engine(executor=executor).step() == []
    assert executor.steps == []


def test_a_failed_step_ends_the_engine_with_an_error_that_says_why():
    def fail() -> None:
        raise ValueError("kernel on fire")

    engine = make_engine(executor=ScriptedExecutor(before_step=fail))
    engine.add_request([1], greedy())
    with pytest.raises(EngineError, match="kernel on fire"):
        engine.step()
    with pytest.raises(EngineError, match="kernel on fire"):
        engine.add_request([1], greedy())
    engine.abort_all()
    engine.check_integrity()
    assert not engine.has_unfinished


@pytest.mark.parametrize(
    ("prompt", "params", "parameter"),
    [
        ([], {}, "prompt"),
        ([VOCAB_SIZE], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([1], {"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ([1], {"stop_token_ids": [-1]}, "stop_token_ids"),
        ([1], {"min_tokens": 9}, "min_tokens"),
    ],
)
def test_a_request_that_does_not_suit_the_model_is_refused_by_name(prompt, params, parameter):
    engine = make_engine()
    with pytest.raises(InvalidParameterError) as caught:
        engine.add_request(prompt, greedy(**params))
    assert caught.value.parameter == parameter
    assert not engine.has_unfinished


def test_an_id_in_use_is_refused():
    engine = make_engine()
    engine.add_request([1], greedy(), request_id="a")
    with pytest.raises(InvalidParameterError, match="'a' is in use"):
        engine.add_request([1], greedy(), request_id="a")


def test_a_refused_call_leaves_nothing_behind():
    engine = make_engine(max_queue_size=3)
    engine.add_request([1], greedy())
    with pytest.raises(OverloadedError):
        engine.add_request([1], greedy(n=3), request_id="a")
    engine.check_integrity()
    engine.add_request([1], greedy(n=2), request_id="a")


def test_statistics_follow_the_clock():
    ticks = iter(range(1000))
    engine = make_engine(clock=lambda: float(next(ticks)))
    request_id = engine.add_request([1, 2, 3], greedy(max_tokens=2))  # arrives at 0
    collector = OutputCollector(request_id, [1, 2, 3])
    for delta in run_deltas(engine):  # steps from 1 to 2 and from 3 to 4
        collector.add(delta)
    output = collector.output()
    assert (output.time_to_first_token_seconds, output.elapsed_seconds) == (2.0, 4.0)
    metrics = engine.metrics
    assert (metrics.num_steps, metrics.step_seconds, metrics.queue_seconds) == (2, 2.0, 1.0)
    assert (metrics.num_prompt_tokens, metrics.num_output_tokens, metrics.num_computed_tokens) == (3, 2, 4)
    assert metrics.num_finished == {"stop": 0, "length": 1, "abort": 0}
