"""Float weights to the integer formats: q4 and q4a with a search for the scale, q8g per group, q8 per row.

Error is the plain squared error of the weights. Everything is vectorised over groups of 32 and runs in slices that
stay in the cache. Above: `weights.pack`. Knows neither files nor names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.weights.layout import QuantBlocks, RowQuant
from glm_crush.weights.packed_size import GROUP

__all__ = ["check_finite", "quantize_q4", "quantize_q4a", "quantize_q8", "quantize_q8g"]

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

_SLICE_GROUPS: Final = 2048  # 256 KiB of float32: a slice and its temporaries stay in the second-level cache
_LARGEST_FLOAT16: Final = 65504.0
_NO_SCALE: Final = 1e-30
# Where the largest weight of a group may land, in units of the scale. -8 uses the whole range; the others
# clip it or leave room. A finer list lowers the error by less than 0.2 %.
_Q4_REACH: Final = (-8.7, -8.35, -8.0, -7.65, -7.3, -6.9, -6.5, 7.3)
_Q4A_LEVELS: Final = (14.0, 14.4, 14.8, 15.2, 15.6, 16.0, 16.4)


def quantize_q4(values: Float32) -> QuantBlocks:
    """Symmetric 4 bits: `w = scale * (code - 8)`, code 0..15.

    For each group several starting scales are tried; each gives codes, for which the best scale is the least-squares
    one, sum(w q) / sum(q q). The scale that explains most of the group wins.

    Raises:
        ValueError: a value is not finite or too large for a float16 scale.
    """
    groups, cols = _groups(values)
    codes = np.empty(groups.shape, np.uint8)
    scales = np.empty(len(groups), np.float16)
    for part in _slices(len(groups)):
        scales[part], codes[part] = _best_q4(groups[part])
    return QuantBlocks(4, _whole(codes, len(values), cols), scales.reshape(len(values), -1))


def quantize_q4a(values: Float32) -> QuantBlocks:
    """Asymmetric 4 bits: `w = scale * code + min`, code 0..15; scale and minimum by least squares as in `quantize_q4`.

    Raises:
        ValueError: a value is not finite or too large for float16.
    """
    groups, cols = _groups(values)
    codes = np.empty(groups.shape, np.uint8)
    scales = np.empty(len(groups), np.float16)
    mins = np.empty(len(groups), np.float16)
    for part in _slices(len(groups)):
        scales[part], mins[part], codes[part] = _best_q4a(groups[part])
    shape = (len(values), -1)
    return QuantBlocks(4, _whole(codes, len(values), cols), scales.reshape(shape), mins.reshape(shape))


def quantize_q8g(values: Float32) -> QuantBlocks:
    """Symmetric 8 bits per group: `w = scale * (code - 128)`, code 1..255.

    Raises:
        ValueError: a value is not finite or too large for a float16 scale.
    """
    groups, cols = _groups(values)
    codes = np.empty(groups.shape, np.uint8)
    scales = np.empty(len(groups), np.float16)
    for part in _slices(len(groups)):
        scales[part] = np.abs(groups[part]).max(axis=1) / np.float32(127)
        codes[part] = _codes(groups[part], scales[part].astype(np.float32), 127, 128)
    return QuantBlocks(8, _whole(codes, len(values), cols), scales.reshape(len(values), -1))


def quantize_q8(values: Float32) -> RowQuant:
    """Symmetric 8 bits with one float32 scale per row.

    Raises:
        ValueError: a value is not finite.
    """
    largest = np.abs(values).max(axis=1, initial=0)
    check_finite(largest, np.inf)
    scales = (largest / np.float32(127)).astype(np.float32)
    return RowQuant(_codes(values, scales, 127, 128), scales)


def _best_q4(x: Float32) -> tuple[npt.NDArray[np.float16], UInt8]:
    """Scales `[n]` and codes `[n, 32]` of groups `[n, 32]`."""
    rows = np.arange(len(x))
    extreme = x[rows, np.abs(x).argmax(axis=1)]
    # What is so small has no float16 scale, and its inverse may overflow.
    safe = np.where(np.abs(extreme) < _NO_SCALE, np.float32(1), extreme)
    best_gain = np.zeros(len(x), np.float32)
    best_scale = np.zeros(len(x), np.float32)
    scaled = np.empty_like(x)
    for reach in _Q4_REACH:
        np.multiply(x, (np.float32(reach) / safe)[:, None], out=scaled)
        np.rint(scaled, out=scaled)
        np.clip(scaled, -8, 7, out=scaled)
        dot = np.einsum("ij,ij->i", x, scaled)
        norm = np.einsum("ij,ij->i", scaled, scaled)
        np.maximum(norm, 1, out=norm)
        gain = dot * dot / norm  # how much of sum(x^2) this choice explains
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best_scale = np.where(better, dot / norm, best_scale)
    scales = best_scale.astype(np.float16)
    return scales, _codes(x, scales.astype(np.float32), 8, 8, top=7)


def _best_q4a(x: Float32) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], UInt8]:
    """Scales `[n]`, minima `[n]` and codes `[n, 32]` of groups `[n, 32]`."""
    low = x.min(axis=1)
    spread = x.max(axis=1) - low
    safe = np.where(spread < _NO_SCALE, np.float32(1), spread)
    total = x.sum(axis=1)
    best_error = np.full(len(x), np.inf, np.float32)
    best_scale, best_min = np.zeros(len(x), np.float32), low.copy()
    for levels in _Q4A_LEVELS:
        q = np.clip(np.rint((x - low[:, None]) * (np.float32(levels) / safe)[:, None]), 0, 15)
        sum_q, sum_qq, sum_qx = q.sum(axis=1), np.einsum("ij,ij->i", q, q), np.einsum("ij,ij->i", q, x)
        determinant = GROUP * sum_qq - sum_q * sum_q
        scale = (GROUP * sum_qx - sum_q * total) / np.maximum(determinant, 1)
        minimum = (total - scale * sum_q) / GROUP
        residual = x - (q * scale[:, None] + minimum[:, None])
        error = np.einsum("ij,ij->i", residual, residual)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale, best_min = np.where(better, scale, best_scale), np.where(better, minimum, best_min)
    scales, mins = best_scale.astype(np.float16), best_min.astype(np.float16)
    shifted = x - mins.astype(np.float32)[:, None]
    return scales, mins, _codes(shifted, scales.astype(np.float32), 0, 0, top=15)


def _codes(x: Float32, scales: Float32, bottom: int, offset: int, top: int | None = None) -> UInt8:
    """Nearest codes of rows with one scale each, clipped to `[-bottom, top]` and shifted by `offset`."""
    # The inverse of a subnormal scale may overflow: such weights are nothing beside the others.
    with np.errstate(over="ignore"):
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    inverse[~np.isfinite(inverse)] = 0
    scaled = np.rint(x * inverse[:, None])
    np.clip(scaled, -bottom, bottom if top is None else top, out=scaled)
    scaled += offset
    return scaled.astype(np.uint8)


def _groups(values: Float32) -> tuple[Float32, int]:
    """Rows cut into groups of 32, the last one filled with zeros: float32 `[rows * groups, 32]`, and the width."""
    cols = values.shape[1]
    padded = values if cols % GROUP == 0 else np.pad(values, ((0, 0), (0, -cols % GROUP)))
    groups = np.ascontiguousarray(padded, np.float32).reshape(-1, GROUP)
    for part in _slices(len(groups)):
        check_finite(groups[part], _LARGEST_FLOAT16)
    return groups, cols


def check_finite(values: npt.NDArray[Any], limit: float = np.inf) -> None:
    """Raises ValueError when a value is NaN, infinite or not below `limit` in size."""
    largest = float(np.abs(values).max(initial=0))
    if not largest < limit:  # also true of NaN
        raise ValueError(f"a weight of {largest} cannot be quantised; weights must be finite and below {limit}")


def _whole(codes: UInt8, rows: int, cols: int) -> UInt8:
    return codes.reshape(rows, -1)[:, :cols]


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _SLICE_GROUPS) for start in range(0, count, _SLICE_GROUPS))
