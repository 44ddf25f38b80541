"""Random weights in every packed format."""

from __future__ import annotations

import numpy as np

from glm_crush.weights.layout import QuantBlocks, RowQuant, pack_bf16, pack_blocks, pack_f32, pack_rows

__all__ = ["packed_weight"]


def packed_weight(fmt: str, rows: int, cols: int, seed: int = 0, deviation: float = 0.3) -> np.ndarray:
    """Random packed bytes of a format, every code and both signs of scales included; weights have that deviation."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, deviation, (rows, cols)).astype(np.float32)
    if fmt == "f32":
        return pack_f32(values)
    if fmt == "bf16":
        return pack_bf16(values)
    levels = 16 if fmt in ("q4", "q4a") else 256
    codes = rng.integers(0, levels, (rows, cols)).astype(np.uint8)
    scale = deviation * np.sqrt(12) / levels
    if fmt == "q8":
        return pack_rows(RowQuant(codes, rng.normal(0, scale, rows).astype(np.float32)))
    groups = (rows, -(-cols // 32))
    scales = rng.normal(0, scale, groups).astype(np.float16)
    mins = rng.normal(0, deviation, groups).astype(np.float16) if fmt == "q4a" else None
    return pack_blocks(QuantBlocks(8 if fmt == "q8g" else 4, codes, scales, mins))
