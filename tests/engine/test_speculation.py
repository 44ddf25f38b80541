"""Guessing ahead: the same replies to the last bit in fewer steps, whatever is guessed and whatever was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush.engine.engine import Engine
from glm_crush.engine.output import OutputCollector
from glm_crush.engine.prompt_lookup import PromptLookup
from glm_crush.types import RequestOutput, SamplingParams, Usage
from tests.engine.drafters import KnownReplies
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
PARAMS = [
    greedy(21),
    sampled(13, seed=3, top_p=0.9, n=2),
    sampled(17, seed=4, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2),
    greedy(15, logprobs=3, prompt_logprobs=1),
    sampled(30, seed=5, stop=["b"], min_tokens=6),
    sampled(25, seed=6, temperature=0.3, logit_bias={7: 2.0}, logprobs=0, min_tokens=9, stop_token_ids=[7, 8, 9, 10]),
]


def drafting(executor: ScriptedExecutor | None = None, *, drafter, **options) -> Engine:
    return make_engine(executor=executor, drafter=drafter, clock=lambda: 0.0, max_decode_steps=4, **options)


def results(outputs: Sequence[RequestOutput]) -> list[object]:
    return [(output.outputs, output.prompt_logprobs) for output in outputs]


@pytest.mark.requirement("E7", "E8")
@settings(deadline=None)
@given(
    error=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    chosen=st.lists(st.tuples(st.sampled_from(PROMPTS), st.sampled_from(PARAMS)), min_size=1, max_size=6),
    num_blocks=st.integers(18, 40),
    max_draft_tokens=st.integers(1, 7),
    prefix_cache=st.booleans(),
    seed=st.integers(0, 9),
)
def test_replies_do_not_depend_on_what_is_guessed(error, chosen, num_blocks, max_draft_tokens, prefix_cache, seed):
    """Penalties, logprobs, stops, several replies, chunked prompts and preemption included."""
    requests = [([*prompt, number], params) for number, (prompt, params) in enumerate(chosen)]
    options = {"eos_token_ids": [11], "num_blocks": num_blocks, "prefix_cache": prefix_cache}
    plain = run(make_engine(**options), *requests)
    drafter = KnownReplies(plain, error=error, seed=seed)
    engine = drafting(drafter=drafter, max_draft_tokens=max_draft_tokens, token_budget=16, **options)
    outputs = run(engine, *requests)
    assert results(outputs) == results(plain)
    assert len(drafter.forgotten) == sum(params.n for _, params in requests)
    counted = [output.usage for output in outputs]
    metrics = engine.metrics
    assert sum(usage.accepted_prediction_tokens for usage in counted) == metrics.num_accepted_tokens
    assert metrics.num_accepted_tokens <= metrics.num_drafted_tokens
    if error == 1.0:
        assert metrics.num_accepted_tokens == 0


@pytest.mark.requirement("E7")
def test_right_guesses_make_several_tokens_of_one_step():
    request = ([0], greedy(max_tokens=12))
    executor = ScriptedExecutor(logits=count_up)
    plain = run(make_engine(logits=count_up), request)
    [output] = run(drafting(executor, drafter=KnownReplies(plain)), request)
    assert output.outputs == plain[0].outputs
    assert executor.steps == [(1, 1), (5, 1), (5, 1), (1, 1)]  # the last token is drawn, never guessed
    assert output.usage == Usage(1, 12, accepted_prediction_tokens=8)


def test_a_wrong_guess_costs_its_place_and_all_after_it():
    class Wrong(KnownReplies):
        def draft(self, lengths):
            return {request: [*tokens[:2], 49, *tokens[3:]] for request, tokens in super().draft(lengths).items()}

    request = ([0], greedy(max_tokens=5))
    plain = run(make_engine(logits=count_up), request)
    engine = drafting(ScriptedExecutor(logits=count_up), drafter=Wrong(plain))
    engine.add_request(*request)
    deltas = run_deltas(engine)
    assert [delta.token_ids for delta in deltas] == [(1,), (2, 3, 4), (5,)]
    assert (engine.metrics.num_drafted_tokens, engine.metrics.num_accepted_tokens) == (3, 2)


def test_what_was_right_beyond_the_end_of_a_reply_is_neither_emitted_nor_counted():
    request = ([0], greedy(max_tokens=20, stop=["d"], logprobs=0))
    long = run(make_engine(logits=count_up), ([0], greedy(max_tokens=20)))
    engine = drafting(ScriptedExecutor(logits=count_up), drafter=KnownReplies(long))
    engine.add_request(*request)
    deltas = run_deltas(engine)
    assert [(delta.token_ids, delta.text) for delta in deltas] == [((1,), "b"), ((2, 3), "c")]
    assert [logprobs.token_id for logprobs in deltas[-1].logprobs] == [2, 3]
    assert (deltas[-1].stats.num_drafted_tokens, deltas[-1].stats.num_accepted_tokens) == (4, 2)


def test_a_row_that_runs_dry_behind_right_guesses_ends_the_reply_after_them():
    def dries_up(context):
        return np.full(VOCAB_SIZE, np.nan, np.float32) if len(context) > 3 else count_up(context)

    request = ([0], greedy(max_tokens=9, logprobs=0))
    known = run(make_engine(logits=count_up), request)
    engine = drafting(ScriptedExecutor(logits=dries_up), drafter=KnownReplies(known))
    engine.add_request(*request)
    first, last = run_deltas(engine)
    assert (first.token_ids, last.token_ids, last.finish_reason) == ((1,), (2, 3), "abort")
    assert len(last.logprobs) == 2
    assert last.error is not None


def test_who_has_no_guess_decodes_beside_those_who_have():
    class OnlyFirst(KnownReplies):
        def certainty(self, request):
            return super().certainty(request) if request.token_ids[0] == 0 else None

    requests = [([0], greedy(max_tokens=9)), ([20], greedy(max_tokens=9))]
    executor = ScriptedExecutor(logits=count_up)
    plain = run(make_engine(logits=count_up), *requests)
    outputs = run(drafting(executor, drafter=OnlyFirst(plain)), *requests)
    assert results(outputs) == results(plain)
    assert executor.steps[:3] == [(2, 2), (6, 2), (4, 2)]


def test_beside_prompts_nothing_is_guessed():
    first, second = ([1, 2, 3], greedy(12)), (list(range(40)), greedy(4))
    drafter = KnownReplies(run(make_engine(), first, second))
    engine = drafting(drafter=drafter, token_budget=8)
    engine.add_request(*first)
    engine.step()
    engine.step()
    assert drafter.drafts
    drafter.drafts.clear()
    engine.add_request(*second)
    while engine.metrics.num_first_tokens < 2:  # the second prompt takes several steps
        engine.step()
        assert not drafter.drafts
    engine.step()
    assert drafter.drafts


def test_without_guesses_calls_draw_as_many_tokens_as_before():
    class Silent(KnownReplies):
        def certainty(self, request):
            return None

    executor = ScriptedExecutor(logits=count_up)
    run(drafting(executor, drafter=Silent([])), ([0], greedy(max_tokens=9)))
    assert executor.decode_calls == [4, 4]


def test_a_guess_never_takes_a_block_that_somebody_may_need():
    requests = [([0] * 7, greedy(max_tokens=10)), ([20] * 7, greedy(max_tokens=10))]
    plain = run(make_engine(logits=count_up), *requests)
    engine = drafting(ScriptedExecutor(logits=count_up, num_blocks=8), drafter=KnownReplies(plain), num_blocks=8)
    assert results(run(engine, *requests)) == results(plain)
    assert engine.metrics.num_preemptions == 0


def test_always_wrong_guesses_are_given_up_and_tried_again_ever_more_rarely():
    """Five times until they no longer seem to pay, then after 16 tokens and after 32."""
    request = ([0], greedy(max_tokens=110))
    plain = run(make_engine(logits=count_up), request)
    drafter = KnownReplies(plain, error=1.0, rate=0.5)
    engine = drafting(ScriptedExecutor(logits=count_up), drafter=drafter)
    assert results(run(engine, request)) == results(plain)
    assert [len(draft) for draft in drafter.drafts] == [2, 1, 1, 1, 1, 1, 1]


def test_a_copied_text_is_guessed_from_the_prompt():
    text = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 32]
    copies = logits_for(lambda context: [*text, 1][len(context) - len(text) - 3] if len(context) < 25 else 1)
    request = ([*text, 40, 41, 42], greedy(max_tokens=11))
    executor = ScriptedExecutor(logits=copies)
    plain = run(make_engine(logits=copies), request)
    [output] = run(drafting(executor, drafter=PromptLookup(), max_draft_tokens=8), request)
    assert output.outputs == plain[0].outputs
    assert list(output.outputs[0].token_ids) == text
    assert output.usage.accepted_prediction_tokens >= 5


def test_drafts_end_with_their_request():
    lookup = PromptLookup()
    engine = drafting(ScriptedExecutor(logits=count_up), drafter=lookup)
    engine.add_request([1, 2, 1, 2], greedy(max_tokens=9), request_id="r")
    engine.step()
    engine.step()
    assert len(lookup._indexes) == 1
    engine.abort("r")
    assert lookup._indexes == {}
    assert engine._speculation._records == {}


def test_the_counts_of_several_replies_add_up():
    params = SamplingParams(n=2, seed=1, temperature=0.0, max_tokens=6)
    plain = run(make_engine(logits=count_up), ([0], params))
    [output] = run(drafting(ScriptedExecutor(logits=count_up), drafter=KnownReplies(plain)), ([0], params))
    assert output.usage == Usage(1, 12, accepted_prediction_tokens=8)
    assert replace(output.usage, accepted_prediction_tokens=0) == plain[0].usage
    collector = OutputCollector("r", [0])
    assert collector.output().usage.rejected_prediction_tokens == 0
