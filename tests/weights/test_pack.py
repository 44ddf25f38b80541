"""Carrying out plans: what lands in the packed file is what the checkpoint means."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from glm_crush.errors import CheckpointError, PackedFileError, UnsupportedModelError
from glm_crush.models.compiler import compile_model
from glm_crush.weights import pack
from glm_crush.weights.checkpoint import Checkpoint, open_checkpoint
from glm_crush.weights.layout import unpack
from glm_crush.weights.pack import pack_checkpoint
from glm_crush.weights.packed_file import PackedFile
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan, gated_rows
from tests.models.tiny import tiny_checkpoint, tiny_config, tiny_tensors
from tests.weights.gguf_files import tiny_gguf

pytestmark = pytest.mark.requirement("M3")

BLOCKY = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}


def checkpoint_of(folder: Path, tensors: dict[str, np.ndarray]) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return open_checkpoint(folder)


def packed(folder: Path, checkpoint: Checkpoint, plan: list[WeightPlan], weight_format: str = "f32") -> PackedFile:
    pack_checkpoint(checkpoint, plan, weight_format, folder / "out.glm")
    file = PackedFile.open(folder / "out.glm", source_hash=checkpoint.source_hash())
    file.verify()
    return file


def weights(file: PackedFile, name: str) -> np.ndarray:
    tensor = file.tensor(name)
    return unpack(tensor.data, tensor.format, tensor.rows, tensor.cols, tensor.experts)


@pytest.fixture
def matrices(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """a [20, 70], b [13, 70], c [20, 70]."""
    return {n: rng.normal(size=(r, 70)).astype(np.float32) for n, r in (("a", 20), ("b", 13), ("c", 20))}


@pytest.mark.parametrize("slab_values", [1, 70 * 32, 1 << 20])
def test_sources_are_concatenated_whatever_the_slab(
    tmp_path: Path, matrices: dict[str, np.ndarray], slab_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "_SLAB_VALUES", slab_values)
    plan: list[WeightPlan] = [LinearPlan("w", ((Source("a"), Source("b"), Source("c")),), 53, 70)]
    file = packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan)
    np.testing.assert_array_equal(weights(file, "w"), np.concatenate(list(matrices.values())))


def test_row_ranges_and_transposes(tmp_path: Path, matrices: dict[str, np.ndarray]) -> None:
    plan: list[WeightPlan] = [
        LinearPlan("rows", ((Source("a", (3, 9)),), (Source("a", (9, 15)),)), 6, 70),
        LinearPlan("turned", ((Source("a", (3, 9), transpose=True),),), 70, 6),
    ]
    file = packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan)
    np.testing.assert_array_equal(weights(file, "rows"), matrices["a"][3:15].reshape(2, 6, 70))
    np.testing.assert_array_equal(weights(file, "turned"), matrices["a"][3:9].T)


@pytest.mark.parametrize("slab_values", [1, 1 << 20])
@pytest.mark.parametrize("weight_format", ["f32", "q4", "q8"])
def test_gated_weights_alternate_panels_for_each_expert(
    tmp_path: Path,
    matrices: dict[str, np.ndarray],
    weight_format: str,
    slab_values: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pack, "_SLAB_VALUES", slab_values)
    pairs = ((Source("a"), Source("c")), (Source("c"), Source("a")))
    plan: list[WeightPlan] = [LinearPlan("w", pairs, gated_rows(20), 70, gated=True)]
    result = weights(packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan, weight_format), "w")
    assert result.shape == (2, 64, 70)
    plain = packed(
        tmp_path, open_checkpoint(tmp_path / "m"), [LinearPlan("a", ((Source("a"),),), 20, 70)], weight_format
    )
    a = weights(plain, "a")
    np.testing.assert_array_equal(result[0, :16], a[:16])
    np.testing.assert_array_equal(result[0, 32:36], a[16:])
    np.testing.assert_array_equal(result[0, 36:48], 0)
    np.testing.assert_array_equal(result[1, 16:32], a[:16])


def test_vectors_are_concatenated_shaped_shifted_and_defaulted(tmp_path: Path) -> None:
    tensors = {"x": np.arange(4, dtype=np.float32), "y": np.arange(8, dtype=np.float16).reshape(2, 4)}
    plan: list[WeightPlan] = [
        VectorPlan("joined", (Source("x"), Source("y", (1, 2))), (2, 4), add=1.0),
        VectorPlan("absent", (Source("z"),), (3,), default=0.5),
        VectorPlan("stand-in", (Source("z", fallback="x"),), (4,)),
    ]
    file = packed(tmp_path, checkpoint_of(tmp_path / "m", tensors), plan)
    np.testing.assert_array_equal(file.vector("joined"), [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(file.vector("absent"), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(file.vector("stand-in"), [0, 1, 2, 3])


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q8_0"])
def test_block_types_are_packed_without_loss(dtype: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, dtype=dtype, **BLOCKY))
    model = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
    file = packed(tmp_path, checkpoint, list(model.plan), "auto")
    expected = {"Q4_0": "q4", "Q4_1": "q4a", "Q8_0": "q8g"}[dtype]
    assert {entry.format for entry in file.entries()} == {expected, "vector"}
    for entry in model.plan:
        if isinstance(entry, LinearPlan) and not entry.gated:
            sources = [checkpoint.tensor(source.name).float32() for source in entry.parts[0]]
            np.testing.assert_array_equal(weights(file, entry.name), np.concatenate(sources), err_msg=entry.name)


FORMAT_TABLE = [
    ("F32", "auto", "f32"), ("F16", "auto", "bf16"), ("BF16", "auto", "bf16"), ("Q5_0", "auto", "q8g"),
    ("Q5_1", "auto", "q8g"), ("Q4_0", "q4", "q4"), ("Q4_1", "q4", "q4a"), ("Q8_0", "q4", "q4"), ("BF16", "q4", "q4"),
    ("BF16", "q8", "q8"), ("Q8_0", "q8", "q8g"), ("Q4_0", "q8", "q8g"), ("Q4_1", "q8", "q8"), ("Q4_0", "bf16", "bf16"),
    ("Q8_0", "f32", "f32"),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "weight_format", "expected"), FORMAT_TABLE)
def test_the_format_follows_source_and_wish(dtype: str, weight_format: str, expected: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, dtype=dtype, num_hidden_layers=1, **BLOCKY))
    name = "model.layers.0.self_attn.o_proj.weight"
    values = checkpoint.tensor(name).float32()
    file = packed(tmp_path, checkpoint, [LinearPlan("w", ((Source(name),),), *values.shape)], weight_format)
    assert file.tensor("w").format == expected
    step = {"q4": 0.16, "q8": 0.012, "q8g": 0.01}.get(expected, 0.005)
    assert np.abs(weights(file, "w") - values).max() < step * np.abs(values).max()


def test_a_fused_weight_takes_the_widest_format_of_its_sources(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, dtype="Q4_0", num_hidden_layers=1, **BLOCKY))
    other = open_checkpoint(
        tiny_gguf(
            "qwen2",
            tmp_path,
            dtype="Q4_1",
            num_hidden_layers=1,
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )
    name = "model.layers.0.mlp.up_proj.weight"
    makers = {"q4": checkpoint.makers[name], "q4a": other.makers[name]}
    mixed = Checkpoint(**{**vars(checkpoint), "makers": makers})
    values = [make().float32() for make in makers.values()]
    file = packed(tmp_path, mixed, [LinearPlan("w", ((Source("q4"), Source("q4a")),), 192, 64)], "auto")
    assert file.tensor("w").format == "q4a"
    np.testing.assert_allclose(weights(file, "w"), np.concatenate(values), atol=1e-7)


def test_codes_with_minima_beside_8_bit_ones_are_quantised_anew(tmp_path: Path) -> None:
    shapes = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    name = "model.layers.0.mlp.up_proj.weight"
    makers = {}
    for dtype in ("Q4_1", "Q8_0"):
        opened = open_checkpoint(tiny_gguf("qwen2", tmp_path / dtype, dtype=dtype, **shapes))
        makers[dtype] = opened.makers[name]
    mixed = Checkpoint(**{**vars(opened), "makers": makers})
    values = np.concatenate([make().float32() for make in makers.values()])
    file = packed(tmp_path, mixed, [LinearPlan("w", ((Source("Q4_1"), Source("Q8_0")),), 192, 64)], "auto")
    assert file.tensor("w").format == "q8g"
    np.testing.assert_array_equal(weights(file, "w")[96:], values[96:])
    np.testing.assert_allclose(weights(file, "w")[:96], values[:96], atol=np.abs(values[:96]).max() / 250)


def test_a_fixed_format_of_the_plan_wins(tmp_path: Path, matrices: dict[str, np.ndarray]) -> None:
    plan: list[WeightPlan] = [LinearPlan("w", ((Source("a"),),), 20, 70, format="f32")]
    file = packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan, "q4")
    np.testing.assert_array_equal(weights(file, "w"), matrices["a"])


@pytest.mark.parametrize("family", ["glm4_moe", "glm4_moe_lite", "gemma3", "mixtral"])
def test_whole_families_are_packed(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(family, tmp_path))
    model = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
    file = packed(tmp_path, checkpoint, list(model.plan), "auto")
    assert set(file.names()) == {entry.name for entry in model.plan}
    tensors = tiny_tensors(tiny_config(family))
    np.testing.assert_array_equal(weights(file, "model.embed_tokens.weight"), tensors["model.embed_tokens.weight"])
    assert file.header.config == checkpoint.config
    assert file.header.tokenizer_json == checkpoint.tokenizer_json
    assert file.header.chat_template == checkpoint.chat_template


def test_progress_counts_to_the_total(tmp_path: Path, matrices: dict[str, np.ndarray]) -> None:
    seen: list[tuple[int, int]] = []
    plan: list[WeightPlan] = [LinearPlan(n, ((Source(n),),), matrices[n].shape[0], 70) for n in "abc"]
    checkpoint = checkpoint_of(tmp_path / "m", matrices)
    pack_checkpoint(checkpoint, plan, "bf16", tmp_path / "o.glm", lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (3 * 8192, 3 * 8192)


BAD_PLANS: dict[str, tuple[WeightPlan, str]] = {
    "missing": (LinearPlan("w", ((Source("nothing"),),), 20, 70), "has no tensor 'nothing'"),
    "rows": (LinearPlan("w", ((Source("a"),),), 21, 70), "'a': 20 rows in all where 21 are due"),
    "cols": (LinearPlan("w", ((Source("a"),),), 20, 71), r"'a' has shape \(20, 70\); 71 inputs are due"),
    "range": (LinearPlan("w", ((Source("a", (10, 30)),),), 20, 70), r"'a' has shape \(20, 70\); rows \(10, 30\)"),
    "gated halves": (
        LinearPlan("w", ((Source("a"), Source("b")),), 64, 70, gated=True),
        r"'a': gate and up have \[20, 13\] rows",
    ),
    "vector as matrix": (LinearPlan("w", ((Source("v"),),), 4, 1), r"'v' has shape \(4,\); a matrix is due"),
    "vector size": (VectorPlan("w", (Source("v"),), (5,)), r"v: 4 values where \(5,\) is due"),
    "not finite": (VectorPlan("w", (Source("n"),), (2,)), "packing 'w': a weight of nan"),
    "matrix not finite": (LinearPlan("w", ((Source("m"),),), 2, 32), "packing 'w': a weight of (nan|inf)"),
}


@pytest.mark.parametrize("weight_format", ["q4", "q8", "bf16"])
@pytest.mark.parametrize("case", BAD_PLANS)
def test_what_does_not_fit_is_named_and_nothing_is_left(
    tmp_path: Path, matrices: dict[str, np.ndarray], case: str, weight_format: str
) -> None:
    extra: dict[str, Any] = {
        "v": np.zeros(4, np.float32),
        "n": np.array([1, np.nan], np.float32),
        "m": np.full((2, 32), np.inf, np.float32),
    }
    plan, message = BAD_PLANS[case]
    checkpoint = checkpoint_of(tmp_path / "m", {**matrices, **extra})
    with pytest.raises(CheckpointError, match=message):
        pack_checkpoint(checkpoint, [plan], weight_format, tmp_path / "out" / "o.glm")
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_an_unknown_weight_format_is_refused(tmp_path: Path, matrices: dict[str, np.ndarray]) -> None:
    plan: list[WeightPlan] = [LinearPlan("w", ((Source("a"),),), 20, 70)]
    with pytest.raises(UnsupportedModelError, match="weight format 'q5'; choose one of auto, q4, q8, bf16, f32"):
        packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan, "q5")


def test_a_full_disk_is_noticed_first(
    tmp_path: Path, matrices: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=10))
    plan: list[WeightPlan] = [LinearPlan("w", ((Source("a"),),), 20, 70)]
    with pytest.raises(PackedFileError, match="are free; make room"):
        packed(tmp_path, checkpoint_of(tmp_path / "m", matrices), plan)
    assert not (tmp_path / "out.glm").exists()


def test_memory_stays_at_a_few_slabs(tmp_path: Path, rng: np.random.Generator) -> None:
    """A matrix of 64 MB is packed in less than half of that."""
    large = rng.normal(size=(8192, 2048)).astype(np.float32)
    checkpoint = checkpoint_of(tmp_path / "m", {"a": large})
    del large
    plan: list[WeightPlan] = [LinearPlan("w", ((Source("a"),),), 8192, 2048)]
    tracemalloc.start()
    try:
        pack_checkpoint(checkpoint, plan, "bf16", tmp_path / "o.glm")
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()
