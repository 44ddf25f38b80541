"""The arithmetic of the reference executor: norms, rotation, activations, rounding. NumPy, float32.

Each function is the definition that a kernel is tested against. Above: `reference`, `reference_attention`,
`reference_experts`. It knows neither programs nor caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.kernels.program import Rope

__all__ = [
    "BlockFloat",
    "DenseWeight",
    "Float32",
    "WeightSource",
    "activation",
    "gated_activation",
    "layer_norm",
    "linear",
    "rms_norm",
    "rotate",
    "round_to_bfloat16",
    "split_gated",
    "to_block_float",
]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

PANEL_ROWS = 16
GROUP = 32
LARGEST_EXPONENT = 15
SMALLEST_MAXIMUM = 1e-30  # 127 / max must stay finite
INTEGER_FORMATS = ("q4", "q4a", "q8", "q8g")


@dataclass(frozen=True)
class DenseWeight:
    """A linear weight as plain numbers.

    Attributes:
        values: float32 `[experts, rows, cols]`, rows in packed order (gate and up panels alternate).
        format: the packed format it came from, which decides how activations are rounded.
    """

    values: Float32
    format: str = "f32"


class WeightSource(Protocol):
    """Where the reference executor finds the weights that a program names."""

    def linear(self, name: str) -> DenseWeight:
        """The linear weight of that name."""

    def vector(self, name: str) -> Float32:
        """The float32 array of that name."""


def rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    return np.asarray(x / np.sqrt(mean_square + np.float32(eps)) * weight, np.float32)


def layer_norm(x: Float32, weight: Float32, bias: Float32, eps: float) -> Float32:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=np.float32)
    return np.asarray(centred / np.sqrt(variance + np.float32(eps)) * weight + bias, np.float32)


@dataclass(frozen=True)
class BlockFloat:
    """Rows in block floating point, `x ~ scale * factor * q`: what the integer kernels multiply with.

    Attributes:
        q: int8 `[num_tokens, groups * 32]`, zero in the padding.
        factor: float32 `[num_tokens, groups]`, powers of two 2^0 .. 2^15.
        scale: float32 `[num_tokens]`, the largest value of the row / (127 * 2^15).
    """

    q: npt.NDArray[np.int8]
    factor: Float32
    scale: Float32

    def float32(self) -> Float32:
        """The numbers these stand for, padding included."""
        return self.q * self.scale[:, None] * np.repeat(self.factor, GROUP, axis=1)


def to_block_float(x: Float32) -> BlockFloat:
    """Rounds each row of float32 `[num_tokens, cols]` to int8 with a power of two per group of 32 columns.

    The power is the smallest 2^e, e in [0, 15], with which the group's largest value fits:
    `group_max <= row_max * 2^(e - 15)`. Then `q = rint(x * 127 / row_max * 2^(15 - e))`.
    """
    groups = np.pad(x, ((0, 0), (0, -x.shape[1] % GROUP))).reshape(len(x), -1, GROUP)
    group_max = np.abs(groups).max(axis=2)
    row_max = group_max.max(axis=1, initial=0)[:, None]
    is_zero = row_max < np.float32(SMALLEST_MAXIMUM)
    row_max = np.where(is_zero, np.float32(1), row_max)
    group_mantissa, group_power = np.frexp(group_max)
    row_mantissa, row_power = np.frexp(row_max)
    wanted = LARGEST_EXPONENT + group_power - row_power + (group_mantissa > row_mantissa)
    exponent = np.where(is_zero | (group_max == 0), 0, np.clip(wanted, 0, LARGEST_EXPONENT)).astype(np.int32)
    multiplier = np.ldexp(np.where(is_zero, np.float32(0), np.float32(127) / row_max), LARGEST_EXPONENT - exponent)
    q = np.rint(groups * multiplier[:, :, None]).astype(np.int8).reshape(len(x), -1)
    scale = np.where(is_zero, np.float32(0), row_max / np.float32(127) * np.float32(2.0**-LARGEST_EXPONENT))
    return BlockFloat(q, np.ldexp(np.float32(1), exponent), scale[:, 0])


def round_to_bfloat16(x: Float32) -> Float32:
    """Rounds to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def linear(x: Float32, weight: DenseWeight, expert: int = 0, *, quantize_activations: bool) -> Float32:
    """`x @ weight[expert].T`, float32 `[num_tokens, rows]`.

    Args:
        x: float32 `[num_tokens, cols]`.
        weight: the weight.
        expert: which of its stacked matrices.
        quantize_activations: round `x` as the kernels do: block floating point for integer formats, bfloat16 for
            bf16.
    """
    if quantize_activations and weight.format in INTEGER_FORMATS:
        x = to_block_float(x).float32()[:, : x.shape[1]]
    elif quantize_activations and weight.format == "bf16":
        x = round_to_bfloat16(x)
    product: Float32 = x @ weight.values[expert].T
    return product


def split_gated(rows: npt.NDArray[np.float32], size: int) -> tuple[Float32, Float32]:
    """Parts the last axis of a gated product, panels of 16 gate and 16 up columns in turn, into `size` each."""
    panels = rows.reshape(*rows.shape[:-1], -1, 2, PANEL_ROWS)
    gate, up = (panels[..., which, :].reshape(*rows.shape[:-1], -1)[..., :size] for which in (0, 1))
    return gate, up


def gated_activation(product: Float32, size: int, activation: str) -> Float32:
    """`silu(gate) * up` or, for "gelu_gate", the tanh approximation of GELU in place of SiLU."""
    gate, up = split_gated(product, size)
    if activation == "silu_gate":
        return np.asarray(gate / (1 + np.exp(-gate)) * up, np.float32)
    assert activation == "gelu_gate", activation
    inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
    return np.asarray(np.float32(0.5) * gate * (1 + np.tanh(inner)) * up, np.float32)


def activation(product: Float32, kind: str) -> Float32:
    """Of every number: "gelu" is `x * Phi(x)` with Phi the normal distribution function (exact), "tanh" the tangent."""
    if kind == "tanh":
        return np.tanh(product)
    assert kind == "gelu", kind
    erf = np.vectorize(math.erf, otypes=[np.float64])(product / math.sqrt(2))
    return np.asarray(product * 0.5 * (1 + erf), np.float32)


def rotate(heads: Float32, positions: Int32, rope: Rope, offset: int) -> Float32:
    """Rotates dimensions `[offset, offset + rotary_dim)` of float32 `[num_tokens, num_heads, dim]` heads.

    A pair (a, b) becomes (a cos - b sin, b cos + a sin) with angle `position * inv_freq`.
    """
    angles = positions[:, None, None].astype(np.float32) * np.asarray(rope.inv_freq, np.float32)
    factor = np.float32(rope.attention_factor)
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    half = len(rope.inv_freq)
    if rope.interleaved:
        first, second = slice(offset, offset + 2 * half, 2), slice(offset + 1, offset + 2 * half, 2)
    else:
        first, second = slice(offset, offset + half, 1), slice(offset + half, offset + 2 * half, 1)
    a, b = heads[..., first], heads[..., second]
    rotated = heads.copy()
    rotated[..., first] = a * cos - b * sin
    rotated[..., second] = b * cos + a * sin
    return rotated
