"""Paged attention of the reference executor: cache arrays, block tables, softmax. NumPy, float32.

Above: `reference`. Below: `reference_math`. It does not choose blocks; block tables come with the batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glm_crush.errors import KernelError
from glm_crush.kernels.program import Attention, CacheLayer, ForwardBatch, Rope
from glm_crush.kernels.reference_cache import cached_keys, cached_values
from glm_crush.kernels.reference_math import Float32, WeightSource, rms_norm, rotate

__all__ = ["PagedCache", "attend"]


class PagedCache:
    """Keys and values of one layer, float32 `[num_blocks * block_size, num_kv_heads, dim]`.

    Args:
        layer: its sizes.
        num_blocks: blocks of the whole cache.
        block_size: positions per block.
        kv_dtype: "f32", or "bf16" or "int8" to round what is written.
    """

    def __init__(self, layer: CacheLayer, *, num_blocks: int, block_size: int, kv_dtype: str) -> None:
        slots = num_blocks * block_size
        self.block_size = block_size
        self.keys = np.zeros((slots, layer.num_kv_heads, layer.key_dim), np.float32)
        self.values = np.zeros((slots, layer.num_kv_heads, layer.value_dim), np.float32)
        self._kv_dtype = kv_dtype

    def write(self, slots: npt.NDArray[np.int64], keys: Float32, values: Float32) -> None:
        """Stores `[num_tokens, num_kv_heads, dim]` keys and values at their slots."""
        self.keys[slots] = cached_keys(keys, self._kv_dtype)
        self.values[slots] = cached_values(values, self._kv_dtype)

    def copy_block(self, source: int, target: int) -> None:
        """Copies all positions of one block to another."""
        size = self.block_size
        for array in (self.keys, self.values):
            array[target * size : (target + 1) * size] = array[source * size : (source + 1) * size]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's keys and values."""
        return int(self.keys[0].nbytes + self.values[0].nbytes) * self.block_size

    def read_block(self, block: int) -> npt.NDArray[np.uint8]:
        """The bytes of one block: its keys, then its values."""
        places = slice(block * self.block_size, (block + 1) * self.block_size)
        return np.concatenate([array[places].ravel() for array in (self.keys, self.values)]).view(np.uint8)

    def write_block(self, block: int, data: npt.NDArray[np.uint8]) -> None:
        """Fills a block with what `read_block` gave of another."""
        numbers, begin = np.ascontiguousarray(data).view(np.float32), 0
        for array in (self.keys, self.values):
            part = array[block * self.block_size : (block + 1) * self.block_size]
            part[:] = numbers[begin : begin + part.size].reshape(part.shape)
            begin += part.size

    def slots(self, block_table: npt.NDArray[np.int32], positions: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Where those positions of one sequence lie.

        Raises:
            KernelError: the block table does not reach that far.
        """
        blocks = block_table[positions // self.block_size].astype(np.int64)
        if (blocks < 0).any() or (blocks * self.block_size >= len(self.keys)).any():
            raise KernelError(f"block_tables: {block_table.tolist()} does not cover position {positions.max()}")
        return blocks * self.block_size + positions % self.block_size


def attend(
    op: Attention,
    cache: PagedCache,
    rope: Rope | None,
    weights: WeightSource,
    qkv: tuple[Float32, Float32, Float32],
    batch: ForwardBatch,
) -> Float32:
    """Runs one attention operation; writes the batch's keys and values into `cache`.

    Args:
        op: the operation.
        cache: its layer.
        rope: its rotary table.
        weights: where head norms are.
        qkv: query, key and value columns, float32 `[num_tokens, width]`.
        batch: the step.

    Returns:
        float32 `[num_tokens, num_heads * value_dim]`.
    """
    num_kv_heads, key_dim = cache.keys.shape[1:]
    query = qkv[0].reshape(-1, op.num_heads, key_dim)
    key = qkv[1].reshape(-1, num_kv_heads, key_dim)
    value = qkv[2].reshape(len(query), num_kv_heads, -1)
    if op.query_norm is not None:
        query = rms_norm(query, weights.vector(op.query_norm.weight), op.query_norm.eps)
    if op.key_norm is not None:
        key = rms_norm(key, weights.vector(op.key_norm.weight), op.key_norm.eps)
    if rope is not None:
        query = rotate(query, batch.positions, rope, op.rope_offset)
        key = rotate(key, batch.positions, rope, op.rope_offset)
    out = np.zeros((len(query), op.num_heads, value.shape[-1]), np.float32)
    for sequence in range(len(batch.context_lens)):
        rows = slice(batch.query_start[sequence], batch.query_start[sequence + 1])
        table, positions = batch.block_tables[sequence], batch.positions[rows]
        cache.write(cache.slots(table, positions), key[rows], value[rows])
        context = np.arange(batch.context_lens[sequence], dtype=np.int32)
        slots = cache.slots(table, context)
        visible = (context[None, :] <= positions[:, None]) | (not op.causal)
        if op.window is not None:
            visible &= context[None, :] > positions[:, None] - op.window
        out[rows] = softmax_attention(query[rows], cache.keys[slots], cache.values[slots], visible, op.scale)
    return out.reshape(len(out), -1)


def softmax_attention(
    query: Float32, keys: Float32, values: Float32, visible: npt.NDArray[np.bool_], scale: float
) -> Float32:
    """`softmax(query @ keys.T * scale) @ values` over visible positions (Vaswani et al. 2017, equation 1).

    Args:
        query: float32 `[num_tokens, num_heads, key_dim]`; consecutive heads share a key and value head.
        keys: float32 `[context, num_kv_heads, key_dim]`.
        values: float32 `[context, num_kv_heads, value_dim]`.
        visible: bool `[num_tokens, context]`.
        scale: factor of the scores.

    Returns:
        float32 `[num_tokens, num_heads, value_dim]`.
    """
    num_tokens, num_heads, key_dim = query.shape
    num_kv_heads = keys.shape[1]
    grouped = query.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, key_dim)
    scores = np.einsum("tkgd,ckd->tkgc", grouped, keys, optimize=True) * np.float32(scale)
    scores = np.where(visible[:, None, None, :], scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Float32 = np.einsum("tkgc,ckd->tkgd", weights, values, optimize=True)
    return mixed.reshape(num_tokens, num_heads, values.shape[-1])
