"""Block types of GGUF against the dequantisation of the `gguf` library."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES

from glm_crush.errors import CheckpointError
from glm_crush.weights.gguf_blocks import GgufTensor

pytestmark = pytest.mark.requirement("M2")

# Bytes of a block that hold float16 scales: random ones would be NaN now and then.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "MXFP4": (),
}
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4")
ROUNDED = ("Q4_K", "IQ4_XS")
FORMATS = {"Q4_0": "q4", "Q4_1": "q4a", "Q4_K": "q4a"}


def make_tensor(dtype: str, rows: int = 6, blocks: int = 3) -> tuple[GgufTensor, np.ndarray]:
    """A tensor of random blocks, and what the library makes of them."""
    rng = np.random.default_rng(3)
    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    data = rng.integers(0, 256, (rows, blocks, nbytes)).astype(np.uint8)
    for at in HALVES[dtype]:
        scale = rng.uniform(0.001, 0.1, (rows, blocks, 1)).astype(np.float16)
        data[:, :, at : at + 2] = scale.view(np.uint8)
    if dtype == "MXFP4":
        data[:, :, 0] = rng.integers(105, 143, (rows, blocks))
    data = data.reshape(rows, -1)
    return GgufTensor("x", dtype, (rows, blocks * block), data), quants.dequantize(data, GGMLQuantizationType[dtype])


@pytest.mark.parametrize("dtype", HALVES)
def test_float_values_are_the_library_s(dtype: str) -> None:
    tensor, expected = make_tensor(dtype)
    np.testing.assert_array_equal(tensor.float32(), expected)
    np.testing.assert_array_equal(tensor.rows(2, 5), expected[2:5])


@pytest.mark.parametrize("dtype", EXACT)
def test_codes_mean_exactly_the_same_weights(dtype: str) -> None:
    tensor, expected = make_tensor(dtype)
    blocks = tensor.blocks(1, 4)
    assert blocks is not None
    assert blocks.format == tensor.block_format == FORMATS.get(dtype, "q8g")
    np.testing.assert_array_equal(blocks.float32(), expected[1:4])


@pytest.mark.parametrize("dtype", ROUNDED)
def test_two_level_scales_round_to_float16(dtype: str) -> None:
    """The codes stay; scale and minimum are products that float16 holds to 11 bits."""
    tensor, expected = make_tensor(dtype)
    blocks = tensor.blocks()
    assert blocks is not None
    assert blocks.format == tensor.block_format == FORMATS.get(dtype, "q8g")
    largest = np.abs(blocks.scales.astype(np.float32)).max() * (127 if blocks.bits == 8 else 15)
    largest += 0 if blocks.mins is None else np.abs(blocks.mins.astype(np.float32)).max()
    np.testing.assert_allclose(blocks.float32(), expected, atol=largest * 2.0**-11)


@pytest.mark.parametrize("dtype", ["Q5_1", "Q2_K", "Q3_K", "Q5_K", "Q6_K"])
def test_types_that_no_layout_holds_have_no_codes(dtype: str) -> None:
    tensor, _ = make_tensor(dtype)
    assert tensor.block_format is None
    assert tensor.blocks() is None


@pytest.mark.parametrize(("dtype", "storage"), [("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"), ("I32", "<i4")])
def test_plain_types(dtype: str, storage: str) -> None:
    values = np.arange(12).reshape(3, 4).astype(storage)
    tensor = GgufTensor("x", dtype, (3, 4), values.view(np.uint8).reshape(3, -1))
    np.testing.assert_array_equal(tensor.float32(), np.arange(12, dtype=np.float32).reshape(3, 4))


def test_bf16_is_the_upper_half_of_float32() -> None:
    tensor = GgufTensor("x", "BF16", (2,), np.array([[0x80, 0x3F, 0x00, 0xC0]], np.uint8))
    np.testing.assert_array_equal(tensor.float32(), [1, -2])


def test_a_scale_beyond_float16_is_an_error() -> None:
    data = np.zeros((1, 17), np.uint8)
    data[0, 0] = 200
    with pytest.raises(CheckpointError, match=r"x: a scale of 4\.72237e\+21 does not fit float16"):
        GgufTensor("x", "MXFP4", (1, 32), data).blocks()
