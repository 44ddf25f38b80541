"""Beam search of a real model: the native engine against its reference, and the same to the last bit in company."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_crush.llm import LLM
from glm_crush.types import SamplingParams
from tests.engine.scripted import sampled
from tests.engine.tiny_model import make_llm, make_reference_executor
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E1", "E8")

PROMPT = list(range(3, 25))
BEAMS = SamplingParams(beam_width=4, n=4, max_tokens=12)


@pytest.mark.parametrize("family", ["llama", "glm4_moe"])
def test_the_native_engine_and_the_reference_find_the_same_beams(tmp_path: Path, family: str) -> None:
    path = tiny_checkpoint(family, tmp_path, dtype="F32")
    options = {"kv_cache_tokens": 2048, "weight_format": "f32", "kv_dtype": "f32"}
    with (
        LLM(path, threads=2, **options) as native,
        LLM(path, make_executor=make_reference_executor, **options) as reference,
    ):
        [found], [expected] = native.generate(PROMPT, BEAMS), reference.generate(PROMPT, BEAMS)
    assert [reply.token_ids for reply in found.outputs] == [reply.token_ids for reply in expected.outputs]
    assert [r.score for r in found.outputs] == pytest.approx([r.score for r in expected.outputs], abs=1e-4)


def test_beams_are_bit_equal_alone_and_in_company_of_other_requests(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path, dtype="BF16")
    requests = [PROMPT, PROMPT[:9], [*PROMPT, 5], PROMPT]
    params = [BEAMS, sampled(12, seed=1, n=3), BEAMS, sampled(9, seed=2)]
    with LLM(path, kv_cache_tokens=2048, threads=2) as llm:
        together = llm.generate(requests, params)
        alone = [llm.generate(prompt, one)[0] for prompt, one in zip(requests, params, strict=True)]
    assert [output.outputs for output in together] == [output.outputs for output in alone]


def test_beam_search_is_generate_with_beams(tmp_path: Path) -> None:
    with make_llm(tmp_path) as llm:
        [output] = llm.beam_search("hello", beam_width=3, n=2, max_tokens=5, length_penalty=0.5)
        [same] = llm.generate("hello", SamplingParams(beam_width=3, n=2, max_tokens=5, length_penalty=0.5))
        [streamed] = [list(llm.stream("hello", SamplingParams(beam_width=3, max_tokens=5, length_penalty=0.5)))]
    assert output.outputs == same.outputs
    assert len(output.outputs) == 2
    assert [delta.token_ids for delta in streamed] == [output.outputs[0].token_ids]
