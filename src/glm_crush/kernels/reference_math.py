"""The arithmetic of the reference executor: norms, rotation, activations, rounding. NumPy, float32.

Each function is the definition that a kernel is tested against. Above: `reference`, `reference_attention`,
`reference_experts`. It knows neither programs nor caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.kernels.program import Rope

__all__ = [
    "DenseWeight",
    "Float32",
    "WeightSource",
    "gated_activation",
    "linear",
    "quantize_int8",
    "rms_norm",
    "rotate",
    "round_to_bfloat16",
    "split_gated",
]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

PANEL_ROWS = 16
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


def quantize_int8(x: Float32) -> Float32:
    """Rounds each row to 255 levels: `scale = absmax / 127`, `q = rint(x / scale)`; returns `q * scale`."""
    scale = np.max(np.abs(x), axis=-1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0))
    return np.asarray(np.clip(codes, -127, 127) * scale, np.float32)


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
        quantize_activations: round `x` as the kernels do: int8 per token for integer formats, bfloat16 for bf16.
    """
    if quantize_activations and weight.format in INTEGER_FORMATS:
        x = quantize_int8(x)
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
