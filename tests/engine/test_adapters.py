"""LoRA adapters in the engine: chosen per request in one batch, cached apart, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_crush.errors import CheckpointError, InvalidParameterError, UnsupportedModelError
from glm_crush.llm import LLM
from glm_crush.types import SamplingParams
from glm_crush.weights.adapter import read_adapter
from glm_crush.weights.checkpoint import open_checkpoint
from glm_crush.weights.merge import merge_adapter
from tests.engine.tiny_model import make_reference_executor
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import ATTENTION, FEED_FORWARD, tiny_adapter

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = [[5, 9, 2, 7] * 5, [11, 3, 8], [4, 4, 6, 1, 2]]


def load(path: Path, **options: Any) -> LLM:
    return LLM(path, **{"kv_cache_tokens": 1024, "threads": 2, "kv_dtype": "f32", "weight_format": "f32", **options})


def tokens(llm: LLM, prompt: list[int], adapter: str | None) -> list[int]:
    [output] = llm.generate([prompt], GREEDY, adapter=adapter)
    return [*output.outputs[0].token_ids]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "glm4", "gemma3"])
@pytest.mark.parametrize("targets", [ATTENTION + FEED_FORWARD, ("q_proj", "v_proj"), ("k_proj", "up_proj")])
def test_an_adapter_says_what_the_merged_model_says(tmp_path: Path, family: str, targets: tuple[str, ...]) -> None:
    path = tiny_checkpoint(family, tmp_path)
    targets = tuple(t.replace("up_proj", "gate_up_proj") if family == "glm4" else t for t in targets)
    folder = tiny_adapter(tmp_path / "adapter", path, targets=targets)
    merge_adapter(open_checkpoint(path), read_adapter(folder), tmp_path / "merged")
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with load(path) as llm, load(tmp_path / "merged") as merged:
        llm.load_adapter("a", folder)
        found, wanted, plain = (
            np.array([entry.logprob for entry in output.prompt_logprobs[1:]])
            for [output] in (
                llm.generate([PROMPTS[0]], params, adapter="a"),
                merged.generate([PROMPTS[0]], params),
                llm.generate([PROMPTS[0]], params),
            )
        )
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(found - plain).max() > 0.05


@pytest.mark.parametrize("speculation", ["off", "prompt_lookup"])
def test_one_batch_serves_the_model_and_two_adapters(tmp_path: Path, base: Path, speculation: str) -> None:
    with load(base, speculation=speculation, weight_format="q4", max_num_batched_tokens=32) as llm:
        for seed, name in enumerate(["a", "b"]):
            llm.load_adapter(name, tiny_adapter(tmp_path / name, base, seed=seed, rank=3 + 9 * seed))
        wanted = {(name, i): tokens(llm, prompt, name) for name in [None, "a", "b"] for i, prompt in enumerate(PROMPTS)}
        assert len({tuple(reply) for (name, i), reply in wanted.items() if i == 0}) == 3
        jobs = [(name, i) for i in range(len(PROMPTS)) for name in ["a", None, "b"]]
        params = [SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, adapter=name) for name, _ in jobs]
        outputs = llm.generate([PROMPTS[i] for _, i in jobs], params)
        assert {job: [*o.outputs[0].token_ids] for job, o in zip(jobs, outputs, strict=True)} == wanted
    with load(base, speculation=speculation, weight_format="q4") as never:
        assert [tokens(never, prompt, None) for prompt in PROMPTS] == [wanted[None, i] for i in range(3)]


def test_prompts_of_an_adapter_are_cached_apart(tmp_path: Path, base: Path) -> None:
    prompt = [*range(1, 34)]
    with load(base) as llm:
        llm.load_adapter("a", tiny_adapter(tmp_path / "a", base))
        llm.load_adapter("b", tiny_adapter(tmp_path / "b", base, seed=1))

        def cached(adapter: str | None) -> int:
            return llm.generate([prompt], GREEDY, adapter=adapter)[0].usage.cached_tokens

        assert [cached(name) for name in [None, "a", "b", None, "a", "b"]] == [0, 0, 0, 32, 32, 32]
        llm.unload_adapter("a")
        llm.load_adapter("a", tmp_path / "b")  # another adapter under an old name
        assert cached("a") == 32  # what b has computed
        assert tokens(llm, prompt, "a") == tokens(llm, prompt, "b")


def test_unknown_taken_and_used_names_are_refused(tmp_path: Path, base: Path) -> None:
    folder = tiny_adapter(tmp_path / "a", base)
    with load(base) as llm:
        with pytest.raises(InvalidParameterError, match="'a' is not loaded; none is loaded"):
            llm.generate([PROMPTS[0]], GREEDY, adapter="a")
        llm.load_adapter("a", folder)
        with pytest.raises(InvalidParameterError, match="an adapter 'a' is loaded"):
            llm.load_adapter("a", folder)
        with pytest.raises(InvalidParameterError, match="'b' is not loaded; there is a"):
            llm.unload_adapter("b")
        stream = llm.stream(PROMPTS[0], SamplingParams(max_tokens=20, ignore_eos=True, adapter="a"))
        next(stream)
        with pytest.raises(InvalidParameterError, match="in use by unfinished requests"):
            llm.unload_adapter("a")
        stream.close()  # type: ignore[attr-defined]
        llm.unload_adapter("a")
        with pytest.raises(InvalidParameterError, match="not loaded"):
            llm.generate([PROMPTS[0]], GREEDY, adapter="a")


def test_what_does_not_fit_the_model_is_refused_with_the_reason(tmp_path: Path, base: Path) -> None:
    moe = tiny_checkpoint("qwen3_moe", tmp_path)
    wide = tiny_checkpoint("qwen2", tmp_path)
    with load(base) as llm:
        with pytest.raises(CheckpointError, match=r"is for a weight .*the model's is"):
            llm.load_adapter("a", tiny_adapter(tmp_path / "a", wide))
        with pytest.raises(
            UnsupportedModelError, match=r"'model\.layers\.0\.mlp\.experts\.0\.down_proj': the model has no such"
        ):
            llm.load_adapter("b", tiny_adapter(tmp_path / "b", moe, targets=("experts.0.down_proj",)))
        with pytest.raises(UnsupportedModelError, match="output head cannot be changed"):
            llm.load_adapter("c", tiny_adapter(tmp_path / "c", base, targets=("embed_tokens",)))
    with load(moe) as llm:
        with pytest.raises(UnsupportedModelError, match="experts of a mixture cannot be changed per request"):
            llm.load_adapter("d", tiny_adapter(tmp_path / "d", moe, targets=("experts.0.down_proj",)))
        llm.load_adapter("e", tiny_adapter(tmp_path / "e", moe, targets=ATTENTION))
        assert tokens(llm, PROMPTS[0], "e") != tokens(llm, PROMPTS[0], None)
    latent = tiny_checkpoint("glm4_moe_lite", tmp_path)
    with load(latent) as llm, pytest.raises(UnsupportedModelError, match=r"latent attention \(MLA\)"):
        llm.load_adapter("f", tiny_adapter(tmp_path / "f", latent, targets=("kv_b_proj",)))


def test_the_reference_executor_says_the_same(tmp_path: Path, base: Path) -> None:
    folder = tiny_adapter(tmp_path / "a", base)
    replies = []
    for make_executor in (None, make_reference_executor):
        with load(base, make_executor=make_executor) as llm:
            llm.load_adapter("a", folder)
            replies.append([tokens(llm, prompt, "a") for prompt in PROMPTS])
    assert replies[0] == replies[1]
