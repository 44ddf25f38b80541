"""Beam search against that of transformers, on a tiny model in f32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glm_crush.types import SamplingParams
from tests.models.tiny import tiny_checkpoint

pytest.importorskip("llguidance", reason="the engine needs it, and an oracle's Python may lack it")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore"), pytest.mark.requirement("E1")]

PROMPT = list(range(3, 20))


@pytest.mark.parametrize("stop_token_ids", [[7], list(range(40, 80))], ids=["one stop token", "many"])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beams_and_their_scores_are_those_of_transformers(
    tmp_path: Path, length_penalty: float, early_stopping: Any, stop_token_ids: list[int]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from glm_crush.llm import LLM

    path = tiny_checkpoint("llama", tmp_path, dtype="F32")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    expected = model.generate(
        torch.tensor([PROMPT]),
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=12,
        do_sample=False,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        eos_token_id=stop_token_ids,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    params = SamplingParams(
        beam_width=4,
        n=4,
        max_tokens=12,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        stop_token_ids=stop_token_ids,
        ignore_eos=True,
    )
    with LLM(path, kv_cache_tokens=2048, kv_dtype="f32", weight_format="f32", threads=2) as llm:
        [output] = llm.generate(PROMPT, params)
    for reply, ids, score in zip(output.outputs, expected.sequences, expected.sequences_scores, strict=True):
        assert list(reply.token_ids) == ids[len(PROMPT) : len(PROMPT) + len(reply.token_ids)].tolist()
        assert reply.score == pytest.approx(float(score), abs=1e-4)
