"""What encoders and embedding models have beside the operations of decoders: positions, pooling, unit length. NumPy.

Above: `reference`. Below: the program. Definitions that the native executor is tested against.
"""

from __future__ import annotations

import itertools

import numpy as np

from glm_crush.kernels.program import EmbedPositions, ForwardBatch
from glm_crush.kernels.reference_math import Float32, Int32, WeightSource

__all__ = ["embed_positions", "mean_of_sequences", "unit_rows"]


def embed_positions(op: EmbedPositions, weights: WeightSource, batch: ForwardBatch) -> Float32:
    """What the operation adds, float32 `[num_tokens, width]`."""
    table = weights.vector(op.positions).reshape(op.num_positions, op.out.width)
    added: Float32 = table[batch.positions + op.offset]
    if op.types is not None:
        types = np.zeros_like(batch.token_ids) if batch.token_types is None else batch.token_types
        added = added + weights.vector(op.types).reshape(op.num_types, op.out.width)[types]
    return added


def mean_of_sequences(rows: Float32, query_start: Int32) -> Float32:
    """The mean row of each sequence, float32 `[num_sequences, width]`."""
    pairs = itertools.pairwise(query_start)
    return np.stack([rows[first:last].mean(axis=0, dtype=np.float32) for first, last in pairs])


def unit_rows(rows: Float32) -> Float32:
    """Rows divided by their Euclidean length."""
    length = np.sqrt(np.sum(rows * rows, axis=-1, keepdims=True))
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)), np.float32)
