"""Guessing ahead on executors that compute a real model: bit-equal replies, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm_crush import LLM, SamplingParams
from glm_crush.config import CrushSettings
from glm_crush.engine.build import build_engine
from glm_crush.engine.engine import Engine
from glm_crush.engine.speculation import Drafter
from glm_crush.models.loader import load_model
from glm_crush.types import CompletionOutput, RequestOutput
from tests.engine.drafters import KnownReplies
from tests.engine.scripted import greedy, run, sampled
from tests.engine.tiny_model import make_reference_executor
from tests.models.tiny import tiny_checkpoint

PHRASE = [(token * 37 + 11) % 90 + 3 for token in range(23)]
PROMPTS = [[*PHRASE, *PHRASE, *PHRASE[:9]], [4, 5] * 9, [*PHRASE, 7, *PHRASE[:5]], [*range(3, 90)] * 2]
PARAMS = [
    greedy(40, ignore_eos=True, logprobs=2),
    sampled(40, seed=1, ignore_eos=True, prompt_logprobs=0),
    sampled(30, seed=2, repetition_penalty=1.1, min_tokens=12, n=2),
    greedy(40, ignore_eos=True, stop=["zz"]),
]


def make_engine(
    folder: Path, *, family: str, drafter: Drafter | None, make_executor: Any = None, **options: Any
) -> Engine:
    path = tiny_checkpoint(family, folder, max_position_embeddings=256)
    weight_format = options.pop("weight_format", "auto")
    loaded = load_model(path, cache_dir=folder / "packed", weight_format=weight_format)
    settings = CrushSettings(
        **{"kv_cache_tokens": 2048, "threads": 2, "speculation": "off", "prefix_cache": drafter is not None, **options}
    )
    return build_engine(
        loaded, settings, make_executor=make_executor, drafter=drafter, max_context=options.get("kv_cache_tokens", 256)
    ).engine


def plain_outputs(folder: Path, params: Sequence[SamplingParams], **options: Any) -> list[RequestOutput]:
    """Each request alone."""
    engine = make_engine(folder, drafter=None, **options)
    return [run(engine, request)[0] for request in zip(PROMPTS, params, strict=True)]


def replies(outputs: Sequence[RequestOutput]) -> list[tuple[CompletionOutput, ...]]:
    return [output.outputs for output in outputs]


@pytest.mark.requirement("E7", "E8")
@pytest.mark.parametrize("family", ["llama", "glm4_moe", "glm4_moe_lite", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
def test_replies_alone_without_guesses_and_together_with_them_are_the_same(tmp_path, family, executor):
    # The sums of NumPy's matrix products depend on the number of rows in the last digit: no logprobs there.
    params = [replace(each, logprobs=None) for each in PARAMS] if executor else PARAMS
    options = {"family": family, "make_executor": executor}
    plain = plain_outputs(tmp_path, params, **options)
    engine = make_engine(tmp_path, drafter=KnownReplies(plain, error=0.2), **options)
    assert replies(run(engine, *zip(PROMPTS, params, strict=True))) == replies(plain)
    assert 0 < engine.metrics.num_accepted_tokens < engine.metrics.num_drafted_tokens


@pytest.mark.requirement("E7", "E8")
@pytest.mark.parametrize("weight_format", ["q4", "q8", "bf16"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8", "f32"])
def test_every_format_verifies_exactly(tmp_path, weight_format, kv_dtype):
    options = {"family": "llama", "weight_format": weight_format, "kv_dtype": kv_dtype}
    plain = plain_outputs(tmp_path, PARAMS, **options)
    engine = make_engine(tmp_path, drafter=KnownReplies(plain, error=0.1), **options)
    assert replies(run(engine, *zip(PROMPTS, PARAMS, strict=True))) == replies(plain)
    assert engine.metrics.num_accepted_tokens > 0


@pytest.mark.requirement("E7", "E8")
def test_a_small_cache_and_chunked_prompts_change_nothing(tmp_path):
    plain = plain_outputs(tmp_path, PARAMS, family="llama")
    engine = make_engine(
        tmp_path,
        family="llama",
        drafter=KnownReplies(plain, error=0.1),
        max_num_seqs=5,
        max_num_batched_tokens=48,
        kv_cache_tokens=224,
    )
    assert replies(run(engine, *zip(PROMPTS, PARAMS, strict=True))) == replies(plain)
    assert engine.metrics.num_preemptions > 0


@pytest.mark.requirement("E7")
def test_prompt_lookup_is_on_unless_it_is_turned_off(tmp_path):
    path = tiny_checkpoint("llama", tmp_path)
    outputs = []
    for speculation in (None, "prompt_lookup", "off"):
        with LLM(path, kv_cache_tokens=512, speculation=speculation) as llm:
            outputs.append(llm.generate([[4, 5] * 9], greedy(20, logit_bias={4: 50.0}, ignore_eos=True))[0])
            assert (llm.metrics.num_accepted_tokens > 0) == (speculation != "off")
    assert outputs[0].outputs == outputs[1].outputs == outputs[2].outputs
