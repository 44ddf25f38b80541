"""A draft model: it never changes a reply, it costs two calls for any number of requests, and gives its cache back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush import LLM
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.draft_model import DraftModel
from glm_crush.engine.runner import Runner
from glm_crush.engine.scheduler import SchedulerLimits
from glm_crush.errors import ConfigError
from tests.engine.scripted import (
    VOCAB_SIZE,
    ScriptedExecutor,
    greedy,
    logits_for,
    make_engine,
    random_logits,
    run,
    sampled,
)
from tests.engine.test_speculation import PARAMS, PROMPTS, count_up, drafting, results
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E7", "E8")


def make_draft_model(
    logits: Callable[[Sequence[int]], Any] = random_logits,
    *,
    executor: ScriptedExecutor | None = None,
    num_blocks: int = 64,
    token_budget: int = 16,
    max_context: int = 128,
) -> DraftModel:
    limits = SchedulerLimits(max_context=max_context, max_num_seqs=8, token_budget=token_budget)
    executor = executor or ScriptedExecutor(num_blocks=num_blocks, logits=logits)
    runner = Runner(executor, limits, block_size=4, vocab_size=VOCAB_SIZE)
    return DraftModel(runner, BlockPool(num_blocks, 4), limits, vocab_size=VOCAB_SIZE)


def nearly(context: Sequence[int]) -> Any:
    """A model that mostly agrees with `random_logits`."""
    noise = np.random.default_rng(len(context)).normal(0, 0.5, VOCAB_SIZE).astype(np.float32)
    return random_logits(context) + noise


@settings(deadline=None, max_examples=60)
@given(
    chosen=st.lists(st.tuples(st.sampled_from(PROMPTS), st.sampled_from(PARAMS)), min_size=1, max_size=5),
    num_draft_blocks=st.integers(1, 40),
    num_blocks=st.integers(18, 40),
    max_context=st.sampled_from([20, 40, 128]),
)
def test_replies_are_those_of_the_large_model_alone(chosen, num_draft_blocks, num_blocks, max_context):
    """With any cache of the small one, down to a single block, and a context that ends before the reply."""
    requests = [([*prompt, number], params) for number, (prompt, params) in enumerate(chosen)]
    plain = run(make_engine(num_blocks=num_blocks), *requests)
    drafter = make_draft_model(nearly, num_blocks=num_draft_blocks, max_context=max_context)
    engine = drafting(drafter=drafter, num_blocks=num_blocks, max_draft_tokens=5)
    assert results(run(engine, *requests)) == results(plain)
    drafter.check_integrity()
    assert drafter._pool.num_free == num_draft_blocks


@pytest.mark.parametrize("params", [greedy(20), sampled(20, seed=5), sampled(20, seed=6, temperature=1.8, top_p=0.8)])
def test_a_model_that_guesses_for_itself_is_always_right(params):
    """At any temperature: both draw with the same random numbers."""
    [plain] = run(make_engine(), ([1, 2, 3], params))
    engine = drafting(drafter=make_draft_model(), max_draft_tokens=5)
    [output] = run(engine, ([1, 2, 3], params))
    assert output.outputs == plain.outputs
    assert output.usage.rejected_prediction_tokens == 0
    assert output.usage.accepted_prediction_tokens >= 15


def test_two_models_that_roughly_agree_often_draw_the_same_token():
    params = sampled(110, seed=5)
    engine = drafting(drafter=make_draft_model(nearly), max_draft_tokens=3)
    run(engine, ([1, 2, 3], params))
    assert engine.metrics.num_accepted_tokens > 0.4 * engine.metrics.num_drafted_tokens


def test_a_guess_is_two_calls_for_any_number_of_requests():
    executor = ScriptedExecutor(logits=count_up)
    requests = [([token], greedy(max_tokens=12)) for token in (0, 10, 20)]
    run(drafting(ScriptedExecutor(logits=count_up), drafter=make_draft_model(executor=executor)), *requests)
    assert executor.steps[:2] == [(6, 3), (3, 3)]  # two tokens to read for each request, then one more draw
    assert executor.steps[2:5] == [(6, 3), (3, 3), (3, 3)]  # the last guess and the token behind it are new to it
    assert executor.decode_calls == [2, 2]


def test_texts_are_read_a_budget_at_a_time_so_that_nobody_waits_for_long():
    """Two long prompts and a short one, at the same moment; the last reading step of a text draws too."""
    executor = ScriptedExecutor(logits=count_up)
    large = ScriptedExecutor(logits=count_up)
    requests = [(range(30), greedy(40)), (range(5, 45), greedy(40)), ([1], greedy(40))]
    engine = drafting(large, drafter=make_draft_model(executor=executor, token_budget=16), token_budget=64)
    outputs = run(engine, *requests)
    num_read = [num_tokens for num_tokens, _ in executor.steps]
    assert num_read[0] == 16
    assert max(num_read) <= 16
    assert all(output.usage.accepted_prediction_tokens > 0 for output in outputs)


def test_beyond_the_small_models_context_nothing_is_guessed():
    drafter = make_draft_model(count_up, max_context=12)
    executor = ScriptedExecutor(logits=logits_for(lambda context: (context[-1] + 1) % VOCAB_SIZE))
    [output] = run(drafting(executor, drafter=drafter), ([0], greedy(40)))
    assert output.outputs[0].token_ids == tuple(range(1, 41))
    assert 0 < output.usage.accepted_prediction_tokens <= 11


def test_a_small_model_guesses_for_a_large_one_in_native_code(tmp_path):
    """Large and small are tiny models of different depth; the small one is named by its path."""
    large = tiny_checkpoint("llama", tmp_path / "large", num_hidden_layers=3, max_position_embeddings=128)
    small = tiny_checkpoint("llama", tmp_path / "small", num_hidden_layers=1, max_position_embeddings=64)
    prompts = [[4, 5, 6], [*range(3, 60)], [9] * 20]
    params = [greedy(30, ignore_eos=True, logprobs=2), sampled(30, seed=1, n=2), sampled(20, seed=2, temperature=0.4)]
    with LLM(large, kv_cache_tokens=512, speculation="off") as llm:
        plain = [output.outputs for output in llm.generate(prompts, params)]
    for model in (small, large):
        with LLM(large, kv_cache_tokens=512, draft_model=model) as llm:
            assert [output.outputs for output in llm.generate(prompts, params)] == plain
            assert llm.metrics.num_drafted_tokens > 0
            if model is large:
                assert llm.metrics.num_accepted_tokens > 0


def test_models_with_other_tokens_cannot_guess_for_each_other(tmp_path):
    path = tiny_checkpoint("llama", tmp_path)
    other = tiny_checkpoint("qwen2", tmp_path / "other")
    definition = json.loads((other / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    first, second = sorted(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ConfigError, match="the draft model has other tokens: 2 differ"):
        LLM(path, kv_cache_tokens=512, draft_model=other)


def test_asking_for_a_draft_model_without_naming_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="draft_model is unset"):
        LLM(tiny_checkpoint("llama", tmp_path), kv_cache_tokens=512, speculation="draft")
