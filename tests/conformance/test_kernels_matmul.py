"""Every variant of every matrix product against NumPy: all formats, M in 1..33 and 512, ragged rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.kernels._native import kernels
from glm_crush.kernels.reference_math import gated_activation, round_to_bfloat16, to_block_float
from glm_crush.weights.layout import unpack
from glm_crush.weights.packed_size import FORMATS
from tests.conformance.packed_weights import packed_weight

VARIANTS = kernels.available()
variants = pytest.mark.parametrize("variant", VARIANTS)
formats = pytest.mark.parametrize("fmt", FORMATS)

# What float32 sums of that many terms may differ by; activations are the kernel's own rounded ones.
TOLERANCE = 3e-6


def activations(num_tokens: int, cols: int, seed: int = 1) -> np.ndarray:
    """Rows with groups of very different size, a zero row and an outlier, as real activations have them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_tokens, cols)) * np.exp(rng.normal(0, 1.5, (num_tokens, cols)))
    x[0, cols // 2] = 300
    if num_tokens > 2:
        x[2] = 0
    return x.astype(np.float32)


def padded(cols: int) -> int:
    return -(-cols // 64) * 64


def prepared(variant: str, fmt: str, x: np.ndarray) -> np.ndarray:
    out = np.empty((len(x), padded(x.shape[1])), np.float32)
    kernels.prepared(variant, fmt, x, out)
    return out[:, : x.shape[1]]


def matmul(variant: str, fmt: str, panels: np.ndarray, x: np.ndarray, width: int, **options: object) -> np.ndarray:
    """Run all pairs of panels (or those given) into a fresh or given `out`."""
    cols = padded(x.shape[1])
    out = options.pop("out", None)
    if out is None:
        out = np.zeros((len(x), width), np.float32)
    rows = 2 * width if "gate" in str(options.get("epilogue")) else width
    options = {"panel_begin": 0, "panel_end": -(-rows // 32) * 2, **options}
    kernels.matmul(variant, fmt, panels, x, out, cols=cols, **options)
    return out


def expected(variant: str, fmt: str, panels: np.ndarray, x: np.ndarray, rows: int) -> np.ndarray:
    weight = unpack(panels, fmt, rows, x.shape[1]).astype(np.float64)
    return prepared(variant, fmt, x).astype(np.float64) @ weight.T


def assert_close(actual: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=TOLERANCE, atol=TOLERANCE * max(1e-3, np.abs(wanted).max()))


@variants
@pytest.mark.parametrize("fmt", ["q4", "q4a", "q8g", "q8"])
@pytest.mark.parametrize("cols", [1, 31, 96, 100, 576])
def test_prepared_activations_keep_the_precision_of_each_group(variant, fmt, cols):
    """A value is off by half a step at most, and a step is at most 2/127 of its group's largest value."""
    x = np.zeros((5, padded(cols)), np.float32)
    x[:, :cols] = activations(5, cols)
    seen = np.zeros_like(x)
    seen[:, :cols] = prepared(variant, fmt, x[:, :cols].copy())
    grouped, difference = (a.reshape(5, -1, 32) for a in (x, np.abs(seen - x)))
    largest = np.abs(grouped).max(axis=-1, keepdims=True)
    row_largest = np.abs(x).max(axis=-1)[:, None, None]
    assert (difference <= 1.001 * np.maximum(largest, row_largest * 2**-15) / 127).all()


@variants
@pytest.mark.parametrize("fmt", ["q4", "q4a", "q8g", "q8"])
@pytest.mark.parametrize("cols", [1, 31, 96, 100, 576])
def test_prepared_activations_are_those_of_the_numpy_twin_bit_for_bit(variant, fmt, cols):
    x = activations(6, cols)
    x[4] *= 1e-32  # counts as zero
    np.testing.assert_array_equal(prepared(variant, fmt, x), to_block_float(x).float32()[:, :cols])


@variants
@pytest.mark.parametrize("cols", [1, 31, 100, 576])
def test_prepared_activations_equal_the_numpy_twin(variant, cols):
    x = activations(6, cols)
    x[1] *= 1e-35  # too small to scale: counts as zero
    for fmt in ("q4", "q8"):
        np.testing.assert_array_equal(prepared(variant, fmt, x), to_block_float(x).float32()[:, :cols])


@variants
def test_prepared_bf16_is_rounded_to_nearest_even_and_f32_untouched(variant):
    """1 + 2^-8 and 1 + 3 * 2^-8 lie half-way: the even neighbours are 1 and 1 + 2^-6."""
    x = np.append(activations(1, 64), np.array([[1 + 2**-8, 1 + 3 * 2**-8]], np.float32), axis=1)
    seen = prepared(variant, "bf16", x)
    assert seen[0, -2:].tolist() == [1.0, 1.015625]
    np.testing.assert_array_equal(seen, round_to_bfloat16(x))
    np.testing.assert_array_equal(prepared(variant, "f32", x), x)


@variants
@formats
@pytest.mark.parametrize("num_tokens", [*range(1, 34), 512])
def test_products_match_numpy_for_every_number_of_tokens(variant, fmt, num_tokens):
    x, panels = activations(num_tokens, 96), packed_weight(fmt, 37, 96)
    assert_close(matmul(variant, fmt, panels, x, 37), expected(variant, fmt, panels, x, 37))


@variants
@formats
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (16, 64), (31, 63), (33, 65), (64, 130), (100, 576), (32, 1536)])
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_products_match_numpy_for_ragged_shapes(variant, fmt, rows, cols, num_tokens):
    x, panels = activations(num_tokens, cols), packed_weight(fmt, rows, cols)
    assert_close(matmul(variant, fmt, panels, x, rows), expected(variant, fmt, panels, x, rows))


@variants
@formats
def test_a_row_is_bit_equal_whatever_shares_its_batch(variant, fmt):
    x, panels = activations(40, 160), packed_weight(fmt, 70, 160)
    alone = np.concatenate([matmul(variant, fmt, panels, x[i : i + 1], 70) for i in range(40)])
    for num_tokens in (2, 3, 5, 8, 13, 16, 31, 32, 33, 40):
        np.testing.assert_array_equal(matmul(variant, fmt, panels, x[:num_tokens], 70), alone[:num_tokens])


@variants
@formats
@pytest.mark.parametrize("num_tokens", [1, 9, 64])
def test_a_row_is_bit_equal_however_panels_are_shared_out(variant, fmt, num_tokens):
    x, panels = activations(num_tokens, 192), packed_weight(fmt, 160, 192)
    parts = np.full((num_tokens, 160), np.nan, np.float32)
    for begin, end in ((4, 10), (0, 2), (2, 4)):
        matmul(variant, fmt, panels, x, 160, out=parts, panel_begin=begin, panel_end=end)
    np.testing.assert_array_equal(parts, matmul(variant, fmt, panels, x, 160))


@formats
def test_variants_agree_bit_for_bit_on_integer_formats(fmt):
    """Group sums are exact integers and floats are fused in one order; bf16 and f32 may round differently."""
    x, panels = activations(6, 320), packed_weight(fmt, 48, 320)
    first, *others = [matmul(variant, fmt, panels, x, 48) for variant in VARIANTS]
    for other in others:
        if fmt in ("bf16", "f32"):
            assert_close(other, first)
        else:
            np.testing.assert_array_equal(other, first)


@variants
@formats
def test_bias_is_added_once_to_stored_and_added_products(variant, fmt):
    x, panels = activations(5, 64), packed_weight(fmt, 40, 64)
    bias, residual = np.arange(40, dtype=np.float32), np.full((5, 40), 2, np.float32)
    plain = matmul(variant, fmt, panels, x, 40)
    assert_close(matmul(variant, fmt, panels, x, 40, bias=bias), plain + bias)
    assert_close(matmul(variant, fmt, panels, x, 40, bias=bias, epilogue="add", out=residual), plain + bias + 2)


@variants
@formats
@pytest.mark.parametrize("epilogue", ["silu_gate", "gelu_gate"])
@pytest.mark.parametrize(("size", "num_tokens"), [(16, 1), (40, 6), (100, 33)])
def test_gated_products_match_numpy(variant, fmt, epilogue, size, num_tokens):
    x = activations(num_tokens, 96) / 100  # gates of a few units, where the activation bends
    rows = 2 * -(-size // 16) * 16
    panels = packed_weight(fmt, rows, 96)
    product = expected(variant, fmt, panels, x, rows).astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = gated_activation(product, size, epilogue)
    np.testing.assert_allclose(matmul(variant, fmt, panels, x, size, epilogue=epilogue), wanted, rtol=2e-5, atol=2e-4)


@variants
@formats
def test_rows_can_be_gathered_scattered_and_weighted_as_experts_need(variant, fmt):
    """Slots 4, 0, 2 of six rows go to output rows 1, 3, 0, each times its router weight; the others stay."""
    x, panels = activations(6, 64), packed_weight(fmt, 40, 64)
    plain = matmul(variant, fmt, panels, x, 40)
    out = np.ones((5, 40), np.float32)
    index = {"in_rows": np.array([4, 0, 2], np.int32), "out_rows": np.array([1, 3, 0], np.int32)}
    weights = np.array([0.5, 2.0, -1.0], np.float32)
    matmul(variant, fmt, panels, x, 40, out=out, epilogue="add", row_weight=weights, **index)
    wanted = np.ones((5, 40), np.float32)
    wanted[[1, 3, 0]] += plain[[4, 0, 2]] * weights[:, None]
    assert_close(out, wanted)


@variants
@formats
def test_nothing_is_written_outside_the_output_columns(variant, fmt):
    """Columns past the end of a row would land in the next one; the row after the last stays as it was."""
    x, panels, rows = activations(3, 64), packed_weight(fmt, 32, 64), np.arange(3, dtype=np.int32)
    for epilogue, width in (("store", 21), ("add", 21), ("silu_gate", 11)):
        out = np.full((4, width), 7, np.float32)
        matmul(variant, fmt, panels, x, width, out=out, epilogue=epilogue, in_rows=rows, out_rows=rows)
        assert (out[3] == 7).all()


@variants
@formats
@pytest.mark.parametrize("row", [0, 15, 16, 36])
def test_looked_up_rows_equal_unpacked_ones(variant, fmt, row):
    panels, out = packed_weight(fmt, 37, 100), np.empty(100, np.float32)
    kernels.lookup_row(variant, fmt, panels, 128, row, 2.0, out)
    np.testing.assert_allclose(out, 2 * unpack(panels, fmt, 37, 100)[row], rtol=1e-6)
