"""What a KV cache keeps of keys and values, per `kv_dtype`. NumPy, float32.

Above: `reference_attention`, conformance tests. Below: `reference_math`. It knows neither blocks nor programs.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from glm_crush.kernels.reference_math import Float32, round_to_bfloat16

__all__ = ["CACHE_GROUP", "KV_DTYPES", "cached_keys", "cached_values", "hadamard", "round_to_cache_codes"]

CACHE_GROUP = 64
KV_DTYPES = ("bf16", "int8", "f32")
SMALLEST_CACHED = 1e-30  # 1 / scale must stay finite


def cached_keys(keys: Float32, kv_dtype: str) -> Float32:
    """What the cache keeps of float32 `[..., key_dim]`; int8 rotates whole groups, rounds them and is rotated back."""
    if kv_dtype != "int8":
        return round_to_bfloat16(keys) if kv_dtype == "bf16" else keys
    groups = [round_to_cache_codes(part @ hadamard(part.shape[-1])) for part in _groups(keys)]
    return np.concatenate([part @ hadamard(part.shape[-1]).T for part in groups], axis=-1)


def cached_values(values: Float32, kv_dtype: str) -> Float32:
    """What the cache keeps of float32 `[..., value_dim]`."""
    if kv_dtype != "int8":
        return round_to_bfloat16(values) if kv_dtype == "bf16" else values
    return np.concatenate([round_to_cache_codes(part) for part in _groups(values)], axis=-1)


def round_to_cache_codes(group: Float32) -> Float32:
    """`scale * rint(group / scale)` with `scale = max|group| / 127` rounded up to bfloat16, over the last axis."""
    largest = np.abs(group).max(axis=-1, keepdims=True)
    bits = np.ascontiguousarray(largest / np.float32(127), np.float32).view(np.uint32)
    scale = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    scale = np.where(largest < np.float32(SMALLEST_CACHED), np.float32(0), scale)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return np.asarray(np.rint(group * inverse) * scale, np.float32)


@cache
def hadamard(size: int) -> Float32:
    """The orthogonal Hadamard matrix for a whole group, the unit matrix for what is left (QuaRot, 2024).

    It spreads a few large dimensions over all of them, so that they do not decide the scale alone.
    """
    if size != CACHE_GROUP:
        return np.eye(size, dtype=np.float32)
    matrix: Float32 = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def _groups(x: Float32) -> list[Float32]:
    """Parts of the last axis of `CACHE_GROUP` numbers, the last one shorter."""
    return np.split(x, range(CACHE_GROUP, x.shape[-1], CACHE_GROUP), axis=-1)
