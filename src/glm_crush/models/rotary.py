"""Rotary embeddings as config.json describes them: angles per position, with context extension applied.

Reads both forms: transformers 5 (`rope_parameters`, per layer type in gemma3) and older files
(`rope_theta`, `partial_rotary_factor`, `rope_scaling`). Scalings: none, linear, llama3, yarn
(Peng et al. 2023); anything else fails the load. Below: `config_reader`, `rotary_angles`.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from glm_crush.errors import UnsupportedModelError
from glm_crush.kernels.program import Rope
from glm_crush.models.config_reader import ConfigReader, nearest
from glm_crush.models.rotary_angles import Angles, LinearAngles, Llama3Angles, YarnAngles

__all__ = ["RotaryConfig", "read_rotary", "rotary_frequencies"]

_MAX_POSITION = 2**31 - 1
_SCALINGS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RotaryConfig:
    """One rotary embedding and how far it reaches.

    Attributes:
        rope: the angles.
        extended_positions: context the scaling stretches the model to, or None when it states none (yarn does).
        score_factor: factor of attention scores that latent attention applies for yarn's `mscale_all_dim`.
    """

    rope: Rope
    extended_positions: int | None = None
    score_factor: float = 1.0

    def reach(self, max_position_embeddings: int) -> int:
        """How many positions the model can use."""
        return max(max_position_embeddings, self.extended_positions or 0)


def read_rotary(
    reader: ConfigReader,
    *,
    head_dim: int,
    interleaved: bool = False,
    default_theta: float = 10000.0,
    default_partial: float = 1.0,
) -> RotaryConfig:
    """Reads the rotary embedding of a model that has one for all its layers.

    Args:
        reader: the model's configuration.
        head_dim: width that `partial_rotary_factor` is a share of.
        interleaved: whether the family pairs (2i, 2i+1).
        default_theta: the family's base where the file gives none.
        default_partial: the family's rotated share of a head where the file gives none.
    """
    theta = reader.positive("rope_theta", default_theta)
    partial = reader.positive("partial_rotary_factor", default_partial)
    parameters = reader.section("rope_parameters") or reader.section("rope_scaling")
    reader.section("rope_scaling")  # a file that carries both forms says the same in both
    return rotary_frequencies(parameters, theta=theta, partial=partial, head_dim=head_dim, interleaved=interleaved)


def rotary_frequencies(
    parameters: ConfigReader | None, *, theta: float, partial: float, head_dim: int, interleaved: bool = False
) -> RotaryConfig:
    """Computes the angles from a `rope_parameters` or `rope_scaling` object, which it reads to the end.

    Raises:
        UnsupportedModelError: an unknown scaling or key, or a rotary dimension that is odd or too large.
    """
    if parameters is None:
        parameters = ConfigReader({}, "rope_parameters")
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind not in _SCALINGS:
        raise UnsupportedModelError(
            f"{parameters.where}: rope_type {kind!r} is not supported{nearest(kind, _SCALINGS)} "
            f"Supported: {', '.join(_SCALINGS)}."
        )
    theta = parameters.positive("rope_theta", theta)
    if theta <= 1:
        raise parameters.malformed("rope_theta", theta, "above 1")
    partial = parameters.positive("partial_rotary_factor", partial)
    dim = int(head_dim * partial + 1e-6)  # a share written as a decimal may fall just short
    if dim % 2 or not 0 < dim <= head_dim:
        raise UnsupportedModelError(
            f"{parameters.where}: partial_rotary_factor {partial} of head_dim {head_dim} rotates {dim} dimensions; "
            f"it must be an even number in [2, {head_dim}]"
        )
    angles = Angles(theta, dim)
    attention_factor, extended, score_factor = 1.0, None, 1.0
    if kind == "linear":
        angles = LinearAngles(theta, dim, parameters.positive("factor"))
    elif kind == "llama3":
        angles = _llama3(parameters, theta, dim)
    elif kind == "yarn":
        angles, attention_factor, extended = _yarn(parameters, theta, dim)
        score_factor = _mscale(parameters.positive("factor"), parameters.optional_number("mscale_all_dim") or 0.0) ** 2
    parameters.finish()
    return RotaryConfig(Rope(angles, interleaved, attention_factor), extended, score_factor)


def _llama3(parameters: ConfigReader, theta: float, dim: int) -> Angles:
    factor = parameters.positive("factor")
    low, high = array("f", [parameters.positive("low_freq_factor"), parameters.positive("high_freq_factor")])
    context = parameters.integer("original_max_position_embeddings")
    if high <= low:
        raise parameters.malformed("high_freq_factor", high, f"above low_freq_factor {low}")
    return Llama3Angles(theta, dim, factor, low, high, context)


def _yarn(parameters: ConfigReader, theta: float, dim: int) -> tuple[Angles, float, int]:
    factor = parameters.positive("factor")
    original = parameters.integer("original_max_position_embeddings")
    if original * factor > _MAX_POSITION:
        raise parameters.malformed("factor", factor, f"at most {_MAX_POSITION} over {original} positions")
    attention_factor = parameters.optional_number("attention_factor")
    mscale, mscale_all_dim = parameters.optional_number("mscale"), parameters.optional_number("mscale_all_dim")
    if attention_factor is None and mscale and mscale_all_dim:
        attention_factor = _mscale(factor, mscale) / _mscale(factor, mscale_all_dim)
    elif attention_factor is None:
        attention_factor = _mscale(factor, 1.0)
    fast, slow = parameters.positive("beta_fast", 32.0), parameters.positive("beta_slow", 1.0)
    low, high = _yarn_ramp(dim, theta, original, (fast, slow), whole=parameters.flag("truncate", True))
    return YarnAngles(theta, dim, factor, low, high), attention_factor, round(original * factor)


def _yarn_ramp(
    dim: int, theta: float, original: int, rotations: tuple[float, float], *, whole: bool
) -> tuple[float, float]:
    """First and last dimension between kept and interpolated ones, from how often they turn in the old context."""

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (dimension_of(turns) for turns in rotations)
    if whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return low, high + 0.001 if low == high else high


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
