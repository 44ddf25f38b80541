"""The model's own prediction layer: it follows every step, in any chunks and blocks, and never changes a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_crush.config import CrushSettings
from glm_crush.engine.build import build_engine
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.engine import Engine
from glm_crush.engine.mtp import NextTokenLayer
from glm_crush.engine.request import Request
from glm_crush.errors import ConfigError
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.models.compiler import compile_next_token_layer
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.types import StructuredOutput
from tests.engine.scripted import greedy, run, sampled
from tests.engine.tiny_model import make_reference_executor
from tests.models.reference_run import batch_of
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E7", "E8")

PROMPTS = [[(token * 37 + 11) % 90 + 3 for token in range(45)], [4, 5] * 9, [8], [*range(3, 70)]]
PARAMS = [
    greedy(20, ignore_eos=True),
    sampled(20, seed=1, ignore_eos=True, n=2),
    sampled(15, seed=2, repetition_penalty=1.1, min_tokens=5),
    sampled(20, seed=3, temperature=0.5, ignore_eos=True, structured=StructuredOutput.regex("[ab]{3,9}c")),
]


def load(folder: Path, family: str = "glm4_moe", **overrides: Any) -> LoadedModel:
    overrides = {"num_nextn_predict_layers": 1, "max_position_embeddings": 128, **overrides}
    path = tiny_checkpoint(family, folder, **overrides)
    return load_model(path, cache_dir=folder / "packed", weight_format="f32")


def make_engine(loaded: LoadedModel, speculation: str, *, make_executor: Any = None, **options: Any) -> Engine:
    settings = CrushSettings(
        **{"kv_cache_tokens": 512, "threads": 2, "kv_dtype": "f32", "speculation": speculation, **options}
    )
    return build_engine(loaded, settings, make_executor=make_executor, max_context=128).engine


def spy_on_drafts(engine: Engine) -> list[tuple[Request, tuple[int, ...], int]]:
    """Every guess as it is made: the request, its tokens until then, the guess."""
    drafter = engine._speculation._drafter
    assert isinstance(drafter, NextTokenLayer)
    seen = []
    draft = drafter.draft

    def spying(lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        drafts = draft(lengths)
        seen.extend((request, tuple(request.token_ids), tokens[0]) for request, tokens in drafts.items())
        return drafts

    drafter.draft = spying  # type: ignore[method-assign]
    return seen


def likeliest_behind(loaded: LoadedModel, tokens: Sequence[int]) -> int:
    """The layer's likeliest token behind a text, model and layer each run over the whole of it at once."""
    names = {entry.name for entry in loaded.packed.entries()}
    layer = compile_next_token_layer(loaded.packed.header.config, loaded.compiled, names)
    assert layer is not None
    model, follower = (
        ReferenceExecutor(c.program, DenseWeights.from_packed(loaded.packed, c.program_plan), num_blocks=8)
        for c in (loaded.compiled, layer)
    )
    tables = np.arange(8, dtype=np.int32)[None]
    model.forward(batch_of([(tokens[:-1], 0)], tables))
    follower.write_hidden(model.read_hidden(len(tokens) - 1))
    return int(follower.forward(batch_of([(tokens[1:], 0)], tables))[-1].argmax())


@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
@pytest.mark.parametrize("family", ["glm4_moe", "glm4_moe_lite"])
def test_guesses_are_those_of_the_layer_over_the_whole_text(tmp_path, family, executor):
    """However the prompt was cut, shared and preempted, and whatever was guessed wrong before."""
    loaded = load(tmp_path, family)
    engine = make_engine(
        loaded, "mtp", make_executor=executor, max_num_batched_tokens=16, max_num_seqs=4, kv_cache_tokens=128
    )
    drafts = spy_on_drafts(engine)
    params = greedy(24, ignore_eos=True)
    run(engine, *[(prompt, params) for prompt in PROMPTS])
    assert engine.metrics.num_preemptions > 0
    assert drafts
    for _, tokens, guess in drafts:
        assert guess == likeliest_behind(loaded, tokens)


@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
@pytest.mark.parametrize("family", ["glm4_moe", "glm4_moe_lite"])
@pytest.mark.parametrize("options", [{}, {"prefix_cache": False, "max_num_batched_tokens": 24, "max_num_seqs": 8}])
def test_replies_are_those_of_a_plain_run(tmp_path, family, executor, options):
    loaded = load(tmp_path, family)
    requests = list(zip(PROMPTS, PARAMS, strict=True))
    plain = [run(make_engine(loaded, "off", make_executor=executor), request)[0].outputs for request in requests]
    engine = make_engine(loaded, "mtp", make_executor=executor, **options)
    assert [output.outputs for output in run(engine, *requests)] == plain
    assert [output.outputs for output in run(engine, *requests)] == plain  # from the prefix cache, where there is one
    assert engine.metrics.num_drafted_tokens > 0


def test_a_layer_that_knows_what_comes_saves_steps(tmp_path):
    """Both heads are made to prefer token 7 whatever the text."""
    loaded = load(tmp_path)
    params = greedy(21, ignore_eos=True, logit_bias={7: 100.0}, logprobs=1)
    [plain] = run(make_engine(loaded, "off"), ([1, 2, 3], params))
    engine = make_engine(loaded, "mtp")
    [output] = run(engine, ([1, 2, 3], params))
    assert output.outputs == plain.outputs
    assert output.usage.rejected_prediction_tokens == 0
    assert engine.metrics.num_steps < 15


def test_a_model_whose_layer_was_dropped_is_refused(tmp_path):
    loaded = load(tmp_path, num_nextn_predict_layers=0)
    with pytest.raises(ConfigError, match="holds no multi-token prediction layer"):
        make_engine(loaded, "mtp")


def test_the_cache_of_the_layer_is_part_of_the_memory_plan(tmp_path):
    loaded = load(tmp_path)
    plans: list[CachePlan] = []

    def planning(model: LoadedModel, settings: CrushSettings, cache: CachePlan) -> Any:
        plans.append(cache)
        return make_reference_executor(model, settings, cache)

    for speculation in ("off", "mtp"):
        make_engine(loaded, speculation, make_executor=planning)
    layers = loaded.packed.header.config["num_hidden_layers"]
    assert plans[1].num_bytes * layers == plans[0].num_bytes * (layers + 1)
    assert replace(plans[1], num_bytes=0) == replace(plans[0], num_bytes=0)
