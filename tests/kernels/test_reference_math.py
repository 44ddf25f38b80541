"""The arithmetic of the reference executor on values that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glm_crush.kernels.program import MixtureOfExperts, Norm, Rope, View
from glm_crush.kernels.reference_attention import softmax_attention
from glm_crush.kernels.reference_experts import route
from glm_crush.kernels.reference_math import (
    DenseWeight,
    gated_activation,
    linear,
    rms_norm,
    rotate,
    round_to_bfloat16,
    split_gated,
    to_block_float,
)


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    normed = rms_norm(f32([[3, 4, 0, 0]]), f32([1, 1, 1, 2]), eps=0.0)
    np.testing.assert_allclose(normed, [[1.2, 1.6, 0, 0]], rtol=1e-6)


def test_rms_norm_of_zeros_is_zero() -> None:
    np.testing.assert_array_equal(rms_norm(f32([[0, 0]]), f32([1, 1]), eps=1e-6), [[0, 0]])


def test_a_group_has_127_steps_up_to_a_power_of_two_below_the_largest_value_of_the_row() -> None:
    """127 / 32 = 3.97 is the smallest power that holds a group whose largest value is 3: 32 times finer steps."""
    x = np.zeros((1, 70), np.float32)
    x[0, :3] = (127, 1.4, -1.6)
    x[0, 32:35] = (3, -0.26, 0.01)
    x[0, 69] = 0.002  # below 127 / 2^15: the finest step there is
    rounded = to_block_float(x)
    assert rounded.q[0, :3].tolist() == [127, 1, -2]
    assert rounded.q[0, 32:35].tolist() == [96, -8, 0]
    assert rounded.q[0, 69] == 66
    assert rounded.factor.tolist() == [[2.0**15, 2.0**10, 1.0]]
    assert rounded.scale.tolist() == [2.0**-15]
    np.testing.assert_array_equal(rounded.float32()[0, [0, 32, 33, 69]], f32([127, 3, -0.25, 66 / 2**15]))


def test_zero_rows_and_rows_too_small_to_divide_by_become_zero() -> None:
    rounded = to_block_float(f32([[0, 0], [1e-31, 0]]))
    assert not rounded.q.any()
    assert rounded.scale.tolist() == [0, 0]


def test_bfloat16_rounding_keeps_eight_bits_ties_to_even() -> None:
    values = f32([1.0, 1 + 1 / 128, 1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 200])
    np.testing.assert_array_equal(round_to_bfloat16(values), f32([1.0, 1 + 1 / 128, 1.0, 1 + 2 / 128, 1 + 1 / 128]))


@pytest.mark.parametrize(
    ("weight_format", "expected"), [("f32", 1.3), ("bf16", 1.296875), ("q4", 1.0), ("q4a", 1.0), ("q8", 1.0)]
)
def test_activations_are_rounded_as_the_format_of_the_weight_asks(weight_format: str, expected: float) -> None:
    weight = DenseWeight(f32([[[1, 0]]]), weight_format)
    product = linear(f32([[1.3, 127]]), weight, quantize_activations=True)
    np.testing.assert_allclose(product, [[expected]], rtol=1e-7)
    plain = linear(f32([[1.3, 127]]), weight, quantize_activations=False)
    np.testing.assert_allclose(plain, [[1.3]], rtol=1e-7)


def test_gate_and_up_panels_are_told_apart() -> None:
    row = np.arange(64, dtype=np.float32)[None]
    gate, up = split_gated(row, 20)
    assert gate[0].tolist() == [*range(16), 32, 33, 34, 35]
    assert up[0].tolist() == [*range(16, 32), 48, 49, 50, 51]


def test_silu_and_gelu_gates() -> None:
    row = np.zeros((1, 32), np.float32)
    row[0, :2], row[0, 16:18] = (1, -2), (10, 10)
    silu = gated_activation(row, 2, "silu_gate")
    np.testing.assert_allclose(silu, [[10 / (1 + math.exp(-1)), -20 / (1 + math.exp(2))]], rtol=1e-6)
    gelu = gated_activation(row, 2, "gelu_gate")
    np.testing.assert_allclose(gelu, [[8.411920, -0.454023]], rtol=1e-5)


def test_half_split_rotation_turns_dimension_i_with_i_plus_half() -> None:
    rope = Rope((math.pi / 2, 0.0), interleaved=False)
    rotated = rotate(f32([[[1, 2, 3, 4, 5]]]), np.asarray([1], np.int32), rope, 0)
    np.testing.assert_allclose(rotated, [[[-3, 2, 1, 4, 5]]], atol=1e-6)


def test_interleaved_rotation_turns_neighbours_and_honours_the_offset() -> None:
    rope = Rope((math.pi / 2, math.pi), interleaved=True)
    rotated = rotate(f32([[[9, 1, 2, 3, 4]]]), np.asarray([1], np.int32), rope, 1)
    np.testing.assert_allclose(rotated, [[[9, -2, 1, -3, -4]]], atol=1e-6)


def test_the_attention_factor_scales_rotated_dimensions_only() -> None:
    rope = Rope((0.0,), interleaved=True, attention_factor=1.5)
    rotated = rotate(f32([[[2, 4, 6]]]), np.asarray([3], np.int32), rope, 0)
    np.testing.assert_allclose(rotated, [[[3, 6, 6]]], rtol=1e-6)


def test_attention_weighs_values_by_the_softmax_of_scores() -> None:
    query = f32([[[1.0], [0.0]]])  # two query heads share one key head
    keys, values = f32([[[0.0]], [[math.log(3.0)]], [[50.0]]]), f32([[[4.0]], [[8.0]], [[1.0]]])
    visible = np.asarray([[True, True, False]])
    mixed = softmax_attention(query, keys, values, visible, scale=1.0)
    np.testing.assert_allclose(mixed, [[[7.0], [6.0]]], rtol=1e-6)


def experts(**overrides: object) -> MixtureOfExperts:
    settings: dict[str, object] = {
        "num_experts": 4,
        "top_k": 2,
        "intermediate_size": 16,
        "scoring": "sigmoid",
        "normalize": True,
        "scale": 1.0,
    }
    view = View(0, 0, 8)
    names = {"router": "r", "router_bias": None, "gate_up": "g", "down": "d"}
    return MixtureOfExperts(input=view, norm=Norm("n", 0), out=view, **names, **{**settings, **overrides})  # type: ignore[arg-type]


def test_softmax_routing_normalises_the_chosen_weights() -> None:
    chosen, weights = route(experts(scoring="softmax"), np.log(f32([[4, 1, 2, 1]])), None)
    assert chosen.tolist() == [[0, 2]]
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3]], rtol=1e-6)


def test_unnormalised_weights_are_the_scores_times_the_scale() -> None:
    op = experts(scoring="softmax", normalize=False, scale=2.0)
    _, weights = route(op, np.log(f32([[4, 1, 2, 1]])), None)
    np.testing.assert_allclose(weights, [[1.0, 0.5]], rtol=1e-6)


def test_the_router_bias_changes_the_choice_but_not_the_weights() -> None:
    logits, op = f32([[2, 1, 0, -1]]), experts(top_k=1, normalize=False)
    assert route(op, logits, None)[0].tolist() == [[0]]
    chosen, weights = route(op, logits, f32([0, 0, 0, 3]))
    assert chosen.tolist() == [[3]]
    np.testing.assert_allclose(weights, [[1 / (1 + math.e)]], rtol=1e-6)


def test_a_router_bias_that_bfloat16_cannot_tell_apart_still_decides() -> None:
    bias = f32([6.82, 6.83, 6.84, 6.85])  # all 6.84375 in bfloat16 or nearly so
    assert route(experts(top_k=1), f32([[0, 0, 0, 0]]), bias)[0].tolist() == [[3]]


def test_ties_go_to_the_lower_expert() -> None:
    assert route(experts(), f32([[1, 1, 1, 1]]), None)[0].tolist() == [[0, 1]]


def test_groups_are_ranked_by_the_sum_of_their_two_best() -> None:
    # Group 0 has the best expert, group 1 the better pair.
    scores = f32([[0.9, 0.1, 0.6, 0.5]])
    logits = np.log(scores / (1 - scores))
    chosen, _ = route(experts(n_group=2, topk_group=1), logits, None)
    assert chosen.tolist() == [[2, 3]]
