"""Quantisation of float weights."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from glm_crush.weights.quantize import quantize_q4, quantize_q4a, quantize_q8, quantize_q8g

pytestmark = pytest.mark.requirement("M3")

MATRICES = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 80)),
    elements=st.floats(-1000, 1000, width=32),
)


def relative_error(values: np.ndarray, quantized: np.ndarray) -> float:
    return float(np.linalg.norm(values - quantized) / np.linalg.norm(values))


@pytest.mark.parametrize(
    ("quantize", "reference", "gain"),
    [(quantize_q4, GGMLQuantizationType.Q4_0, 0.95), (quantize_q4a, GGMLQuantizationType.Q4_1, 0.92)],
)
def test_the_search_beats_rounding_to_the_largest_weight(quantize, reference, gain, rng: np.random.Generator) -> None:
    """llama.cpp's Q4_0 and Q4_1 take the scale from the extremes of each group."""
    values = rng.normal(size=(64, 512)).astype(np.float32)
    plain = quants.dequantize(quants.quantize(values, reference), reference)
    assert relative_error(values, quantize(values).float32()) < gain * relative_error(values, plain)


@pytest.mark.parametrize(("quantize", "steps"), [(quantize_q4, 7), (quantize_q8g, 127), (quantize_q8, 127)])
@given(values=MATRICES)
def test_symmetric_error_stays_within_a_step_of_the_largest_weight(quantize, steps: int, values: np.ndarray) -> None:
    largest = np.abs(values).max(axis=1, keepdims=True)
    error = np.abs(values - quantize(values).float32())
    # float16 scales are exact to 2^-11, or to 2^-25 when they are subnormal
    assert (error <= largest * (1.3 / steps) + 128 * 2.0**-24).all()


@given(values=MATRICES)
def test_asymmetric_error_stays_within_a_step_of_the_range(values: np.ndarray) -> None:
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % 32)))
    groups = padded.reshape(len(values), -1, 32)
    spread = np.repeat(groups.max(axis=2) - groups.min(axis=2), 32, axis=1)[:, : values.shape[1]]
    largest = np.abs(values).max()
    error = np.abs(values - quantize_q4a(values).float32())
    assert (error <= spread * (1.3 / 15) + largest * 2.0**-9 + 2.0**-20).all()


@pytest.mark.parametrize("quantize", [quantize_q4, quantize_q4a, quantize_q8g, quantize_q8])
@pytest.mark.parametrize("value", [1e-45, 6.045511e-39, 1e-37])
def test_weights_whose_inverse_overflows_become_zero(quantize, value: float) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 3] = value
    assert np.abs(quantize(values).float32()).max() <= 1e-37
    values[0, 4] = 1.0
    assert quantize(values).float32()[0, 4] == pytest.approx(1.0, rel=1e-2)


def test_zeros_stay_zero_and_have_no_scale() -> None:
    zeros = np.zeros((2, 40), np.float32)
    blocks = quantize_q4(zeros)
    assert (blocks.codes == 8).all()
    assert (blocks.scales == 0).all()
    for quantize in (quantize_q4a, quantize_q8g, quantize_q8):
        np.testing.assert_array_equal(quantize(zeros).float32(), zeros)


def test_multiples_of_one_step_are_exact() -> None:
    values = np.tile(np.arange(-8, 8, dtype=np.float32) / 4, (3, 4))
    np.testing.assert_array_equal(quantize_q4(values).float32(), values)
    np.testing.assert_array_equal(quantize_q4a(values + 3).float32(), values + 3)


def test_an_8_bit_row_keeps_its_largest_weight() -> None:
    quant = quantize_q8(np.array([[1.0, -12.7, 6.4]], np.float32))
    np.testing.assert_array_equal(quant.codes, [[138, 1, 192]])
    np.testing.assert_allclose(quant.scales, [0.1], rtol=1e-6)


@pytest.mark.parametrize("quantize", [quantize_q4, quantize_q4a, quantize_q8g, quantize_q8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(quantize, bad: float) -> None:
    values = np.ones((2, 64), np.float32)
    values[1, 40] = bad
    with pytest.raises(ValueError, match="must be finite"):
        quantize(values)
