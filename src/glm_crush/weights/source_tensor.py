"""A checkpoint's tensor as the packer sees it: shape, type, rows in float32 and, where they exist, its integer codes.

Above: `weights.pack`. The readers make these from safetensors and GGUF files; data stays in the file's map until it
is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError
from glm_crush.weights.layout import QuantBlocks, bfloat16_bits_to_float32

__all__ = ["DenseTensor", "HeadsTensor", "RowMappedTensor", "SourceTensor"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class SourceTensor(ABC):
    """One named tensor of a checkpoint.

    Attributes:
        name: Hugging Face name. shape: Hugging Face orientation, a linear weight is `[out, in]`.
        dtype: the stored type ("F32", "BF16", "Q4_0", "F8_E4M3", "GPTQ4", ...).
        block_format: packed format that keeps the stored codes ("q4", "q4a", "q8g"), or None when there is none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    block_format: str | None = None

    @abstractmethod
    def rows(self, start: int, stop: int) -> Float32:
        """Rows `[start, stop)` along the first dimension, as a float32 copy."""

    def float32(self) -> Float32:
        """The whole tensor as a float32 copy of its shape."""
        return self.rows(0, self.shape[0]) if self.shape else self.rows(0, 1).reshape(())

    def blocks(self, start: int = 0, stop: int | None = None) -> QuantBlocks | None:  # noqa: ARG002 - the interface
        """Integer codes of rows `[start, stop)`, or None when `block_format` is None."""
        return None


class DenseTensor(SourceTensor):
    """Plain numbers: F32, F16, BF16, F64 or integers."""

    def __init__(self, name: str, dtype: str, data: npt.NDArray[Any]) -> None:
        """`data` is a view in the stored type; uint16 bits for BF16."""
        self.name = name
        self.dtype = dtype
        self.shape = data.shape
        self._data = data

    def rows(self, start: int, stop: int) -> Float32:
        part = self._data[start:stop] if self.shape else self._data.reshape(1)
        if self.dtype == "BF16":
            return bfloat16_bits_to_float32(np.ascontiguousarray(part))
        with np.errstate(over="ignore"):  # F64 beyond float32 becomes inf, which the packer refuses
            return part.astype(np.float32)


class RowMappedTensor(SourceTensor):
    """Rows of another tensor, picked and reordered, with a constant added.

    GGUF stores the q and k rows of llama permuted and gemma's norms with 1 added; whole rows move, so
    codes stay what they are.
    """

    def __init__(self, inner: SourceTensor, order: Int64 | None = None, add: float = 0.0) -> None:
        """Row i is row `order[i]` of `inner`, plus `add`."""
        self.name, self.dtype = inner.name, inner.dtype
        self.shape = inner.shape if order is None else (len(order), *inner.shape[1:])
        self.block_format = inner.block_format if add == 0.0 else None
        self._inner = inner
        self._order = order
        self._add = np.float32(add)

    def rows(self, start: int, stop: int) -> Float32:
        if self._order is None:
            return self._inner.rows(start, stop) + self._add
        low, picks = self._span(start, stop)
        return self._inner.rows(low, low + int(picks.max()) + 1)[picks] + self._add

    def blocks(self, start: int = 0, stop: int | None = None) -> QuantBlocks | None:
        if self.block_format is None:
            return None
        stop = self.shape[0] if stop is None else stop
        if self._order is None:
            return self._inner.blocks(start, stop)
        low, picks = self._span(start, stop)
        blocks = self._inner.blocks(low, low + int(picks.max()) + 1)
        assert blocks is not None
        mins = None if blocks.mins is None else blocks.mins[picks]
        return QuantBlocks(blocks.bits, blocks.codes[picks], blocks.scales[picks], mins)

    def _span(self, start: int, stop: int) -> tuple[int, Int64]:
        """First inner row needed, and the wanted rows counted from it. The order moves rows within heads only."""
        assert self._order is not None
        picks = self._order[start:stop]
        low = int(picks.min())
        return low, picks - low


class HeadsTensor(SourceTensor):
    """A `[num_heads * head_rows, cols]` matrix that is computed head by head (MLA's kv_b_proj from k_b and v_b)."""

    def __init__(
        self, name: str, dtype: str, *, num_heads: int, head_rows: int, cols: int, make: Callable[[int], Float32]
    ) -> None:
        """`make(head)` gives float32 `[head_rows, cols]`."""
        self.name = name
        self.dtype = dtype
        self.shape = (num_heads * head_rows, cols)
        self._head_rows = head_rows
        self._make = make

    def rows(self, start: int, stop: int) -> Float32:
        first = start // self._head_rows
        last = -(-stop // self._head_rows)
        heads = [self._make(head) for head in range(first, last)]
        if any(part.shape != (self._head_rows, self.shape[1]) for part in heads):
            raise CheckpointError(f"{self.name}: a head is {heads[0].shape}, not {(self._head_rows, self.shape[1])}")
        offset = first * self._head_rows
        return np.concatenate(heads)[start - offset : stop - offset]
