"""The multi-token prediction layer: its program against the formula, on a standard model that is made to compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels.native import Executor
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.models.compiler import compile_model, compile_next_token_layer
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.loader import load_model
from tests.models.reference_run import BLOCK_SIZE, BLOCKS_PER_SEQUENCE, batch_of, shuffled_tables
from tests.models.tiny import tiny_checkpoint, tiny_config, tiny_tensors

pytestmark = pytest.mark.requirement("E7", "M2")

FAMILIES = ["glm4_moe", "glm4_moe_lite"]
TOKENS = [(7 * position + 3) % 200 for position in range(30)]


def tiny(family: str, **overrides: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    config = tiny_config(family, num_nextn_predict_layers=1, **overrides)
    return config, tiny_tensors(config)


def layer_executor(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> ReferenceExecutor:
    compiled = compile_model(config, tensor_names=tensors.keys())
    layer = compile_next_token_layer(config, compiled, tensors.keys())
    assert layer is not None
    weights = DenseWeights.from_tensors(layer.program_plan, tensors.__getitem__)
    return ReferenceExecutor(layer.program, weights, num_blocks=BLOCKS_PER_SEQUENCE, block_size=BLOCK_SIZE)


def norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def by_formula(config: dict[str, Any], tensors: Mapping[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """Logits behind each position of TOKENS.

    The joined vectors are computed here; they become the embeddings of a model of one layer, whose weights are those of
    the prediction layer. Models of one layer are checked against transformers.
    """
    last, eps = f"model.layers.{config['num_hidden_layers']}.", config["rms_norm_eps"]
    embedded = tensors[f"{last}embed_tokens.weight"][[*TOKENS[1:], 0]]
    embedded[0] = 0
    main = norm(hidden, tensors["model.norm.weight"], eps)
    joined = [norm(embedded, tensors[f"{last}enorm.weight"], eps), norm(main, tensors[f"{last}hnorm.weight"], eps)]
    vectors = np.concatenate(joined, axis=-1) @ tensors[f"{last}eh_proj.weight"].T
    table = np.zeros_like(tensors["model.embed_tokens.weight"])
    table[: len(vectors)] = vectors
    single = {**config, "num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0}
    single.pop("mlp_layer_types", None)
    weights = {
        "model.embed_tokens.weight": table,
        "model.norm.weight": tensors[f"{last}shared_head.norm.weight"],
        "lm_head.weight": tensors[f"{last}shared_head.head.weight"],
    }
    own = ("embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head")
    for name, values in tensors.items():
        if name.startswith(last) and not name.removeprefix(last).startswith(own):
            weights[f"model.layers.0.{name.removeprefix(last)}"] = values
    compiled = compile_model(single, tensor_names=weights.keys())
    dense = DenseWeights.from_tensors(compiled.program_plan, weights.__getitem__)
    executor = ReferenceExecutor(compiled.program, dense, num_blocks=BLOCKS_PER_SEQUENCE, block_size=BLOCK_SIZE)
    return executor.forward(batch_of([(range(len(vectors)), 0)], shuffled_tables(1)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunks", [[30], [1, 12, 1, 16]], ids=["at once", "in chunks"])
def test_the_layer_computes_the_formula(family, chunks):
    config, tensors = tiny(family)
    hidden = np.random.RandomState(5).standard_normal((len(TOKENS), config["hidden_size"])).astype(np.float32)
    executor = layer_executor(config, tensors)
    done, logits = 0, []
    for size in chunks:
        executor.write_hidden(hidden[done : done + size])
        tokens = [*TOKENS, 0][done + 1 : done + 1 + size]
        logits.append(executor.forward(batch_of([(tokens, done)], shuffled_tables(1))))
        done += size
    np.testing.assert_allclose(np.concatenate(logits), by_formula(config, tensors, hidden), rtol=2e-4, atol=2e-4)


def test_embedding_and_head_may_be_those_of_the_model():
    """Some GGUF files and checkpoints leave the layer's copies out."""
    config, tensors = tiny("glm4_moe")
    last = f"model.layers.{config['num_hidden_layers']}."
    shared = {
        f"{last}embed_tokens.weight": "model.embed_tokens.weight",
        f"{last}shared_head.head.weight": "lm_head.weight",
    }
    equal = {**tensors, **{own: tensors[main] for own, main in shared.items()}}
    without = {name: values for name, values in tensors.items() if name not in shared}
    batch = batch_of([(TOKENS[1:9], 0)], shuffled_tables(1))
    hidden = np.random.RandomState(6).standard_normal((8, config["hidden_size"])).astype(np.float32)
    logits = []
    for weights in (equal, without):
        executor = layer_executor(config, weights)
        executor.write_hidden(hidden)
        logits.append(executor.forward(batch))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("logit_rows", [[], [len(TOKENS) - 1]], ids=["no logits", "the last row's"])
@pytest.mark.parametrize("family", FAMILIES)
def test_natively_the_layer_reads_what_the_model_leaves(tmp_path, family, logit_rows):
    """The hidden states of a step, and the logits of the layer over them, are those of the NumPy twin."""
    path = tiny_checkpoint(family, tmp_path, num_nextn_predict_layers=1)
    loaded = load_model(path, cache_dir=tmp_path / "packed", weight_format="f32")
    names = {entry.name for entry in loaded.packed.entries()}
    layer = compile_next_token_layer(loaded.packed.header.config, loaded.compiled, names)
    programs = [replace(loaded.compiled.program, keeps_hidden=True), layer.program]
    plans = [loaded.compiled.program_plan, layer.program_plan]
    results = []
    for native in (False, True):
        executors = [
            Executor(program, loaded.packed, num_threads=2, num_blocks=4, kv_dtype="f32", max_tokens=32)
            if native
            else ReferenceExecutor(program, DenseWeights.from_packed(loaded.packed, plan), num_blocks=4)
            for program, plan in zip(programs, plans, strict=True)
        ]
        model, follower = executors
        tables = np.arange(4, dtype=np.int32)[None]
        model.forward(replace(batch_of([(TOKENS, 0)], tables), logit_rows=np.array(logit_rows, np.int32)))
        hidden = model.read_hidden(len(TOKENS))
        follower.write_hidden(hidden)
        results.append((hidden, follower.forward(batch_of([([*TOKENS[1:], 0], 0)], tables))))
    for ours, twins in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, twins, rtol=1e-3, atol=1e-3)


def test_what_a_program_does_not_keep_or_take_is_refused(tmp_path):
    loaded = load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path / "packed")
    program = loaded.compiled.program
    plain = Executor(program, loaded.packed, num_threads=1, num_blocks=2, max_tokens=8)
    with pytest.raises(KernelError, match="does not keep its hidden states"):
        plain.read_hidden(1)
    with pytest.raises(KernelError, match="takes no hidden states"):
        plain.write_hidden(np.zeros((1, program.hidden_size), np.float32))
    keeping = Executor(replace(program, keeps_hidden=True), loaded.packed, num_threads=1, num_blocks=2, max_tokens=8)
    with pytest.raises(KernelError, match="a step takes up to 8 rows"):
        keeping.read_hidden(9)


def test_a_model_without_the_layer_has_no_program_for_it():
    config = tiny_config("llama")
    tensors = tiny_tensors(config)
    assert compile_next_token_layer(config, compile_model(config, tensor_names=tensors.keys()), tensors.keys()) is None
    config, tensors = tiny("glm4_moe")
    dropped = {name for name in tensors if not name.startswith(f"model.layers.{config['num_hidden_layers']}.")}
    assert compile_next_token_layer(config, compile_model(config, tensor_names=dropped), dropped) is None
