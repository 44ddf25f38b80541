"""FP8, compressed-tensors, GPTQ and AWQ checkpoints, packed here as their tools do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.checkpoint import Checkpoint, open_checkpoint
from tests.weights.safetensors_files import write_folder

pytestmark = pytest.mark.requirement("M2")

ROWS, COLS, GROUP = 24, 128, 64
Tensors = dict[str, tuple[str, np.ndarray]]


def open_folder(folder: Path, tensors: Tensors, quantization: dict[str, Any]) -> Checkpoint:
    config = {"model_type": "llama", "quantization_config": quantization}
    return open_checkpoint(write_folder(folder / "model", tensors, config))


def words(codes: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """Codes `[n, m]` as int32 `[n, m * bits / 32]`; position i of a word holds code `order[i]` of its run."""
    count = 32 // bits
    runs = codes.reshape(codes.shape[0], -1, count).astype(np.uint64)
    packed = np.zeros(runs.shape[:2], np.uint64)
    for position, column in enumerate(order or range(count)):
        packed |= runs[:, :, column] << np.uint64(bits * position)
    return packed.astype(np.uint32).view(np.int32)


def make_codes(rng: np.random.Generator, bits: int = 4, symmetric: bool = False) -> tuple[np.ndarray, ...]:
    """Codes `[out, in]`, scales and zeros `[out, groups]`, and the weights they mean."""
    codes = rng.integers(0, 2**bits, (ROWS, COLS)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (ROWS, COLS // GROUP)).astype(np.float16)
    zeros = np.full(scales.shape, 2 ** (bits - 1)) if symmetric else rng.integers(1, 2**bits, scales.shape)
    weights = (codes - np.repeat(zeros, GROUP, 1).astype(np.float32)) * np.repeat(scales, GROUP, 1).astype(np.float32)
    return codes, scales, zeros.astype(np.uint8), weights


def gptq(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int, offset: int = 1) -> Tensors:
    stored = (zeros.T.astype(np.int64) - offset) % 2**bits
    return {
        "x.qweight": ("I32", words(codes, bits).T),
        "x.qzeros": ("I32", words(stored, bits)),
        "x.scales": ("F16", scales.T),
        "x.g_idx": ("I32", (np.arange(COLS) // GROUP).astype(np.int32)),
    }


def assert_blocks_mean(checkpoint: Checkpoint, weights: np.ndarray, fmt: str, codes: np.ndarray) -> None:
    tensor = checkpoint.tensor("x.weight")
    blocks = tensor.blocks(5, 19)
    assert tensor.block_format == fmt
    assert blocks is not None
    assert blocks.format == fmt
    np.testing.assert_array_equal(blocks.codes, codes[5:19])
    np.testing.assert_allclose(blocks.float32(), weights[5:19], atol=1e-3)


def test_fp8_with_a_scale_per_channel(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(ROWS, COLS)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(0.1, 1, (ROWS, 1)).astype(ml_dtypes.bfloat16)
    tensors: Tensors = {
        "x.weight": ("F8_E4M3", values.view(np.uint8)),
        "x.weight_scale": ("BF16", scale.view(np.uint16)),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "compressed-tensors", "format": "float-quantized"})
    assert checkpoint.names() == ("x.weight",)
    expected = values.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").float32(), expected)
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").rows(7, 9), expected[7:9])


def test_fp8_with_a_scale_per_block_of_128(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(200, 300)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(0.1, 1, (2, 3)).astype(np.float32)
    tensors: Tensors = {"x.weight": ("F8_E4M3", values.view(np.uint8)), "x.weight_scale_inv": ("F32", scale)}
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    expected = values.astype(np.float32) * np.repeat(np.repeat(scale, 128, 0), 128, 1)[:200, :300]
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").float32(), expected)
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").rows(120, 140), expected[120:140])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_fp8_with_one_scale(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors: Tensors = {
        "x.weight": ("F8_E5M2", np.array([[1.5, -2.0]], ml_dtypes.float8_e5m2).view(np.uint8)),
        "x.weight_scale": ("F32", np.full(shape, 2, np.float32)),
        "x.input_scale": ("F32", np.ones((), np.float32)),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "fp8"})
    assert checkpoint.names() == ("x.weight",)
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").float32(), [[3, -4]])


def test_int8_with_a_scale_per_channel(tmp_path: Path) -> None:
    tensors: Tensors = {
        "x.weight": ("I8", np.array([[1, -128], [127, 0]], np.int8)),
        "x.weight_scale": ("F32", np.array([[0.5], [2]], np.float32)),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "compressed-tensors", "format": "int-quantized"})
    np.testing.assert_array_equal(checkpoint.tensor("x.weight").float32(), [[0.5, -64], [254, 0]])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq(tmp_path: Path, rng: np.random.Generator, bits: int, symmetric: bool) -> None:
    codes, scales, zeros, weights = make_codes(rng, bits, symmetric)
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": False, "sym": symmetric}
    checkpoint = open_folder(tmp_path, gptq(codes, scales, zeros, bits), config)
    tensor = checkpoint.tensor("x.weight")
    assert (tensor.shape, tensor.dtype) == ((ROWS, COLS), f"GPTQ{bits}")
    np.testing.assert_allclose(tensor.float32(), weights, rtol=1e-6)
    if bits == 8 and not symmetric:
        assert tensor.blocks() is None
    else:
        fmt = "q8g" if bits == 8 else "q4" if symmetric else "q4a"
        assert_blocks_mean(checkpoint, weights, fmt, codes)


def test_gptq_v2_stores_the_zero_itself(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros, weights = make_codes(rng)
    config = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}
    checkpoint = open_folder(tmp_path, gptq(codes, scales, zeros, 4, offset=0), config)
    np.testing.assert_allclose(checkpoint.tensor("x.weight").float32(), weights, rtol=1e-6)


def test_gptq_with_activation_order_goes_through_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros, weights = make_codes(rng)
    order = rng.permutation(COLS)
    tensors = gptq(codes[:, order], scales, zeros, 4)
    tensors["x.g_idx"] = ("I32", (order // GROUP).astype(np.int32))
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "gptq", "bits": 4, "desc_act": True})
    tensor = checkpoint.tensor("x.weight")
    assert tensor.blocks() is None
    np.testing.assert_allclose(tensor.float32(), weights[:, order], rtol=1e-6)


def test_awq(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros, weights = make_codes(rng)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    tensors: Tensors = {
        "x.qweight": ("I32", words(codes.T, 4, order)),
        "x.qzeros": ("I32", words(zeros.T, 4, order)),
        "x.scales": ("F16", scales.T),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "awq", "bits": 4, "version": "gemm"})
    assert checkpoint.tensor("x.weight").dtype == "AWQ4"
    np.testing.assert_allclose(checkpoint.tensor("x.weight").float32(), weights, rtol=1e-6)
    assert_blocks_mean(checkpoint, weights, "q4a", codes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors_pack_quantized(
    tmp_path: Path, rng: np.random.Generator, bits: int, symmetric: bool
) -> None:
    codes, scales, zeros, weights = make_codes(rng, bits, symmetric)
    tensors: Tensors = {
        "x.weight_packed": ("I32", words(codes, bits)),
        "x.weight_scale": ("F16", scales),
        "x.weight_shape": ("I64", np.array([ROWS, COLS])),
    }
    if not symmetric:
        tensors["x.weight_zero_point"] = ("I32", words(zeros.T, bits).T)
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    checkpoint = open_folder(tmp_path, tensors, config)
    assert checkpoint.names() == ("x.weight",)
    np.testing.assert_allclose(checkpoint.tensor("x.weight").float32(), weights, rtol=1e-6)
    if symmetric:
        assert_blocks_mean(checkpoint, weights, "q4" if bits == 4 else "q8g", codes)


def test_groups_that_are_no_multiple_of_32_go_through_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    codes = rng.integers(0, 16, (8, 48)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (8, 3)).astype(np.float16)
    tensors: Tensors = {
        "x.weight_packed": ("I32", words(codes, 4)),
        "x.weight_scale": ("F16", scales),
        "x.weight_shape": ("I64", np.array([8, 48])),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "compressed-tensors", "format": "pack-quantized"})
    tensor = checkpoint.tensor("x.weight")
    assert tensor.block_format is None
    np.testing.assert_allclose(
        tensor.float32(), (codes - np.float32(8)) * np.repeat(scales.astype(np.float32), 16, 1), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes'"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
    ],
)
def test_a_quantisation_we_do_not_read_is_named(tmp_path: Path, quantization: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        open_folder(tmp_path, {"x.weight": ("F32", np.ones((2, 2), np.float32))}, quantization)


def test_parts_that_contradict_each_other_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros, _ = make_codes(rng)
    good = gptq(codes, scales, zeros, 4)
    config = {"quant_method": "gptq", "bits": 4}
    wrong: dict[str, tuple[str, np.ndarray] | None] = {
        "x.scales": ("F16", scales[:, :1]),
        "x.qzeros": None,
        "x.g_idx": ("I32", np.full(COLS, 99, np.int32)),
    }
    for index, (part, replacement) in enumerate(wrong.items()):
        tensors = {k: v for k, v in {**good, part: replacement}.items() if v is not None}
        checkpoint = open_folder(tmp_path / str(index), tensors, config)
        with pytest.raises(CheckpointError, match=r"x\.weight"):
            checkpoint.tensor("x.weight")
    checkpoint = open_folder(tmp_path / "bits", good, {"quant_method": "gptq", "bits": 3})
    with pytest.raises(UnsupportedModelError, match="3 bits; 4 and 8 are supported"):
        checkpoint.tensor("x.weight")


@pytest.mark.parametrize(
    "tensors",
    [
        {"x.weight": ("F8_E4M3", np.zeros((4, 4), np.uint8))},
        {"x.weight": ("F8_E4M3", np.zeros((4, 4), np.uint8)), "x.weight_scale": ("F32", np.ones((3, 1), np.float32))},
        {"x.weight": ("F8_E4M3", np.zeros(4, np.uint8)), "x.weight_scale": ("F32", np.ones(1, np.float32))},
        {
            "x.weight_packed": ("I32", np.zeros((4, 4), np.int32)),
            "x.weight_scale": ("F16", np.ones((4, 1), np.float16)),
            "x.weight_shape": ("I64", np.array([4, 2**40])),
        },
    ],
)
def test_a_scale_that_does_not_fit_is_named(tmp_path: Path, tensors: Tensors) -> None:
    checkpoint = open_folder(tmp_path, tensors, {})
    with pytest.raises((CheckpointError, UnsupportedModelError), match=r"x\.weight"):
        checkpoint.tensor("x.weight")


def test_blocks_of_another_size_are_read_from_the_configuration(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(40, 50)).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(0.1, 1, (3, 2)).astype(np.float32)
    tensors: Tensors = {"x.weight": ("F8_E4M3", values.view(np.uint8)), "x.weight_scale": ("F32", scale)}
    groups = {"group_0": {"weights": {"num_bits": 8, "block_structure": [16, 32]}}}
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    expected = values.astype(np.float32) * np.repeat(np.repeat(scale, 16, 0), 32, 1)[:40, :50]
    np.testing.assert_array_equal(open_folder(tmp_path, tensors, config).tensor("x.weight").float32(), expected)


@pytest.mark.parametrize("size", [[128], [0, 128], [128, "128"], "128", [128.0, 128.0]])
def test_a_block_size_that_is_none_is_refused(tmp_path: Path, size: object) -> None:
    tensors: Tensors = {
        "x.weight": ("F8_E4M3", np.zeros((4, 4), np.uint8)),
        "x.weight_scale_inv": ("F32", np.ones((1, 1), np.float32)),
    }
    checkpoint = open_folder(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": size})
    with pytest.raises(CheckpointError, match=r"'x\.weight': weight block size"):
        checkpoint.tensor("x.weight")


SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
PARTS = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
    "fp8": ("weight", "weight_scale", "weight_scale_inv"),
}


@pytest.mark.parametrize("method", PARTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_parts_of_any_shape_are_read_or_refused(method: str, tmp_path: Path, data: st.DataObject) -> None:
    tensors: Tensors = {}
    for part in PARTS[method]:
        shape = data.draw(st.none() | SHAPES, part)
        if shape is None:
            continue
        numbers = np.full(shape, data.draw(st.integers(-3, 9), part))
        if part in ("scales", "weight_scale", "weight_scale_inv"):
            tensors[f"x.{part}"] = ("F32", numbers.astype(np.float32))
        elif part == "weight":
            tensors[f"x.{part}"] = ("F8_E4M3", numbers.astype(np.uint8))
        else:
            tensors[f"x.{part}"] = ("I32", numbers.astype(np.int32))
    with contextlib.suppress(CheckpointError, UnsupportedModelError):
        checkpoint = open_folder(
            tmp_path, tensors, {"quant_method": method, "bits": data.draw(st.sampled_from([4, 8]))}
        )
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)
            values = tensor.float32()
            assert values.shape == tensor.shape
            blocks = tensor.blocks()
            if blocks is not None:
                assert blocks.codes.shape == tensor.shape
                assert blocks.scales.shape == (tensor.shape[0], -(-tensor.shape[1] // 32))


def test_words_of_another_type_and_fused_fp8_experts_are_unsupported(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros, _ = make_codes(rng)
    tensors = gptq(codes, scales, zeros, 4)
    tensors["x.qweight"] = ("I64", np.zeros((16, 24), np.int64))
    checkpoint = open_folder(tmp_path / "a", tensors, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModelError, match=r"'x\.qweight' is I64; packed integers must be I32"):
        checkpoint.tensor("x.weight")
    fused: Tensors = {"model.layers.0.mlp.experts.down_proj": ("F8_E4M3", np.zeros((2, 4, 4), np.uint8))}
    with pytest.raises(UnsupportedModelError, match="fused experts in F8_E4M3 are not supported"):
        open_folder(tmp_path / "b", fused, {"quant_method": "fp8"})
