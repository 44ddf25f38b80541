"""Rotary angles in closed form; longer comparisons are golden logits."""

from __future__ import annotations

import math

import pytest

from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.rotary import read_rotary


def test_angles_are_powers_of_theta() -> None:
    rotary = read_rotary(ConfigReader({"rope_theta": 10000.0}), head_dim=8)
    assert rotary.rope.inv_freq == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-6)
    assert rotary.rope.attention_factor == 1.0
    assert not rotary.rope.interleaved


def test_a_partial_factor_rotates_the_first_dimensions_with_their_own_powers() -> None:
    rotary = read_rotary(
        ConfigReader({"rope_theta": 100.0, "partial_rotary_factor": 0.5}), head_dim=8, interleaved=True
    )
    assert rotary.rope.inv_freq == pytest.approx([1, 0.1], rel=1e-6)
    assert rotary.rope.rotary_dim == 4
    assert rotary.rope.interleaved


def test_both_forms_of_the_configuration_give_the_same_angles() -> None:
    old = {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
    assert read_rotary(ConfigReader(old), head_dim=8) == read_rotary(ConfigReader(new), head_dim=8)


def test_linear_scaling_divides_every_angle() -> None:
    reader = ConfigReader({"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}})
    assert read_rotary(reader, head_dim=4).rope.inv_freq == pytest.approx([0.25, 0.0025], rel=1e-6)


def test_llama3_keeps_fast_angles_and_divides_slow_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    reader = ConfigReader({"rope_theta": 10000.0, "rope_scaling": scaling})
    # Wavelengths 6.3 (below 64 / 4: kept), 62.8 (between: blended), 628 and 6283 (above 64: divided).
    smooth = (64 / (2 * math.pi / 0.1) - 1) / 3
    expected = [1, (1 - smooth) * 0.1 / 8 + smooth * 0.1, 0.01 / 8, 0.001 / 8]
    assert read_rotary(reader, head_dim=8).rope.inv_freq == pytest.approx(expected, rel=1e-5)


def test_yarn_interpolates_slow_angles_and_scales_attention_and_reach() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    rotary = read_rotary(ConfigReader({"rope_theta": 10000.0, "rope_scaling": scaling}), head_dim=8)
    # The ramp runs from dimension 0 to 1: the first angle is kept, the rest are divided by 4.
    assert rotary.rope.inv_freq == pytest.approx([1, 0.025, 0.0025, 0.00025], rel=1e-5)
    assert rotary.rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert rotary.reach(100) == 128
    assert rotary.reach(200) == 200
