"""Cached equals fresh, to the last bit, on the executors that compute a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glm_crush import LLM, SamplingParams
from tests.engine.scripted import sampled
from tests.engine.tiny_model import make_reference_executor
from tests.models.tiny import tiny_checkpoint

PREFIX = [(token * 37 + 11) % 90 + 3 for token in range(70)]
PROMPTS = [PREFIX, [*PREFIX, 5, 6, 7], [*PREFIX[:40], 9, 9], PREFIX[:64], [*PREFIX, 5, 6, 8]]
GREEDY = SamplingParams(temperature=0.0, max_tokens=20, logprobs=3, ignore_eos=True)

Replies = list[tuple[object, ...]]


def make_llm(folder: Path, *, family: str = "llama", **options: Any) -> LLM:
    path = tiny_checkpoint(family, folder, max_position_embeddings=128)
    return LLM(path, **{"kv_cache_tokens": 1024, **options})


def replies(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> Replies:
    return [output.outputs for output in llm.generate(prompts, params)]


def fresh_replies(folder: Path, params: SamplingParams, **options: object) -> Replies:
    with make_llm(folder, prefix_cache=False, **options) as llm:
        fresh = [replies(llm, [prompt], params)[0] for prompt in PROMPTS]
        assert llm.metrics.prefix_cache_hits == 0
    return fresh


@pytest.mark.requirement("E6", "E8")
@pytest.mark.parametrize("weight_format", ["q4", "f32"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8", "f32"])
def test_logprobs_after_a_cached_prefix_are_those_of_a_fresh_run(tmp_path, weight_format, kv_dtype):
    """One by one, together, and from the blocks that replies have filled token by token."""
    options = {"make_executor": None, "weight_format": weight_format, "kv_dtype": kv_dtype}
    fresh = fresh_replies(tmp_path, GREEDY, **options)
    with make_llm(tmp_path, **options) as llm:
        assert [replies(llm, [prompt], GREEDY)[0] for prompt in PROMPTS] == fresh
        assert llm.metrics.prefix_cache_hits == 64 + 32 + 48 + 64
        assert replies(llm, PROMPTS, GREEDY) == fresh
    with make_llm(tmp_path, **options) as llm:
        assert replies(llm, PROMPTS, GREEDY) == fresh
        [first] = llm.generate(PREFIX, GREEDY)
        [second] = llm.generate([*PREFIX, *first.outputs[0].token_ids[:15]], GREEDY)
        assert second.usage.cached_tokens == 80
        shared = min(len(first.outputs[0].token_ids) - 15, 5)
        assert second.outputs[0].logprobs[:shared] == first.outputs[0].logprobs[15:]


@pytest.mark.requirement("E6", "E8")
@pytest.mark.parametrize("family", ["glm4_moe", "gemma3", "glm4_moe_lite"])
@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
def test_other_attentions_share_prefixes_too(tmp_path, family, executor):
    params = sampled(6, seed=1, ignore_eos=True)
    fresh = fresh_replies(tmp_path, params, family=family, make_executor=executor)
    with make_llm(tmp_path, family=family, make_executor=executor, kv_cache_tokens=256) as llm:
        assert replies(llm, PROMPTS, params) == fresh
        assert llm.metrics.prefix_cache_hits > 0
