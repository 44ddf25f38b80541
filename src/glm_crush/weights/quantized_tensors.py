"""Quantised linear weights of safetensors checkpoints: FP8, compressed-tensors, GPTQ and AWQ.

Each class gives float32 rows and, where groups of columns are multiples of 32, the integer codes unchanged.
Shapes: weight `[out, in]`; `group` input columns share a scale. Above: `weights.safetensors_names`.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.layout import QuantBlocks
from glm_crush.weights.packed_size import GROUP
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["AwqTensor", "GptqTensor", "GroupQuantTensor", "PackQuantizedTensor", "ScaledTensor"]

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[Any]

_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)  # column held by nibble i of an AWQ word


class ScaledTensor(SourceTensor):
    """FP8 or int8 values times a scale per tensor, per output row, or per block (DeepSeek's 128x128)."""

    def __init__(self, name: str, dtype: str, data: AnyArray, scale: Float32, block: tuple[int, int] | None) -> None:
        """Check that the scale fits.

        Args:
            name: of the weight.
            dtype: "F8_E4M3", "F8_E5M2" or "I8".
            data: `[out, in]`, uint8 bits of FP8 or int8.
            scale: `[]`, `[1]`, `[out]`, `[out, 1]` or one value per block.
            block: rows and columns of a block when the scale is per block.
        """
        if data.ndim != 2:
            raise CheckpointError(f"{name}: a quantised weight has 2 dimensions, this has shape {data.shape}")
        rows, cols = data.shape
        if block is None:
            if scale.size not in (1, rows):
                raise CheckpointError(f"{name}: scale of shape {scale.shape} for {rows} rows; give 1 or {rows} values")
            scale = np.broadcast_to(scale.reshape(-1, 1), (rows, 1))
        else:
            expected = (-(-rows // block[0]), -(-cols // block[1]))
            if scale.shape != expected:
                raise CheckpointError(f"{name}: scale of shape {scale.shape}; blocks of {block} need {expected}")
        self.name, self.dtype, self.shape = name, dtype, data.shape
        self._data, self._scale, self._block = data, scale, block

    def rows(self, start: int, stop: int) -> Float32:
        values = _fp8_values(self.dtype)[self._data[start:stop]] if self.dtype != "I8" else self._data[start:stop]
        scale = self._scale[start:stop]
        if self._block is not None:
            scale = self._scale[np.arange(start, stop) // self._block[0]]
            scale = np.repeat(scale, self._block[1], axis=1)[:, : self.shape[1]]
        with np.errstate(all="ignore"):  # the packer refuses what is not finite
            return (values * scale).astype(np.float32, copy=False)


class GroupQuantTensor(SourceTensor):
    """Unsigned integers with a scale and a zero point per output row and group: `w = scale * (code - zero)`.

    Subclasses know how the codes, scales and zeros are stored.

    Attributes:
        bits: 4 or 8. group: columns per scale. column_group: group of each column when not in order.
        symmetric: no zero points are stored; the zero is the middle code.
    """

    bits: int
    group: int
    column_group: npt.NDArray[np.int64] | None = None
    symmetric: bool

    def _codes(self, start: int, stop: int) -> UInt8:
        raise NotImplementedError

    def _scales(self, start: int, stop: int) -> Float32:
        raise NotImplementedError

    def _zeros(self, start: int, stop: int) -> UInt8:
        raise NotImplementedError

    def _finish(self, name: str, kind: str, shape: tuple[int, int]) -> None:
        """Set the public fields once the subclass knows its shapes."""
        self.name, self.dtype, self.shape = name, f"{kind}{self.bits}", shape
        if self.bits not in (4, 8):
            raise UnsupportedModelError(f"{name}: {kind} with {self.bits} bits; 4 and 8 are supported")
        regular = self.column_group is None and self.group % GROUP == 0
        if regular and self.bits == 4:
            self.block_format = "q4" if self._is_centred() else "q4a"
        elif regular and self._is_centred():
            self.block_format = "q8g"

    def _is_centred(self) -> bool:
        """Every zero point is the middle code. Reads the zeros, a small part of the tensor."""
        return self.symmetric or bool((self._zeros(0, self.shape[0]) == 1 << (self.bits - 1)).all())

    def rows(self, start: int, stop: int) -> Float32:
        scales, zeros = self._scales(start, stop), self._zeros(start, stop).astype(np.float32)
        index = np.arange(self.shape[1]) // self.group if self.column_group is None else self.column_group
        with np.errstate(all="ignore"):  # the packer refuses what is not finite
            return (self._codes(start, stop).astype(np.float32) - zeros[:, index]) * scales[:, index]

    def blocks(self, start: int = 0, stop: int | None = None) -> QuantBlocks | None:
        """Codes unchanged; scales, and minima `-scale * zero`, rounded to float16."""
        if self.block_format is None:
            return None
        stop = self.shape[0] if stop is None else stop
        groups = -(-self.shape[1] // GROUP)
        index = np.arange(groups) * GROUP // self.group
        scales = self._scales(start, stop)[:, index]
        if not np.all(np.abs(scales) * 16 < 65504):
            raise CheckpointError(f"{self.name}: a scale of {np.abs(scales).max():g} does not fit float16")
        mins = None
        if self.block_format == "q4a":
            mins = (-scales * self._zeros(start, stop)[:, index]).astype(np.float16)
        return QuantBlocks(self.bits, self._codes(start, stop), scales.astype(np.float16), mins)


class PackQuantizedTensor(GroupQuantTensor):
    """compressed-tensors `pack-quantized`: int32 words along the input, lowest bits first, value + 2^(bits-1)."""

    def __init__(
        self,
        name: str,
        packed: AnyArray,
        scale: Float32,
        shape: AnyArray,
        zero: AnyArray | None,
        g_idx: AnyArray | None,
    ) -> None:
        """Check that `weight_packed`, `weight_scale`, `weight_shape` and perhaps zero points and group index agree."""
        rows, cols = (int(n) for n in shape.reshape(-1)) if shape.size == 2 else (-1, -1)
        if packed.ndim != 2 or packed.shape[0] != rows or cols <= 0 or scale.ndim != 2 or scale.shape[0] != rows:
            raise CheckpointError(f"{name}: packed {packed.shape}, scale {scale.shape}, shape {shape} disagree")
        self.bits = next((b for b in (4, 8) if -(-cols // (32 // b)) == packed.shape[1]), 0)
        self.group = _group_size(name, cols, scale.shape[1])
        self.symmetric = zero is None
        self._packed, self._scale, self._zero = packed, scale, zero
        if zero is not None and self.bits and zero.shape != (-(-rows * self.bits // 32), scale.shape[1]):
            raise CheckpointError(f"{name}: zero points have shape {zero.shape}, scales {scale.shape}")
        self.column_group = _column_group(name, g_idx, cols, self.group, scale.shape[1])
        self._finish(name, "INT", (rows, cols))

    def _codes(self, start: int, stop: int) -> UInt8:
        return _unpack_words(self._packed[start:stop], self.bits)[:, : self.shape[1]]

    def _scales(self, start: int, stop: int) -> Float32:
        return self._scale[start:stop]

    def _zeros(self, start: int, stop: int) -> UInt8:
        if self._zero is None:
            return np.full((stop - start, self._scale.shape[1]), 1 << (self.bits - 1), np.uint8)
        return _unpack_words(self._zero.T, self.bits).T[start:stop]


class GptqTensor(GroupQuantTensor):
    """GPTQ: `qweight` int32 `[in / 8, out]` with words along the input, `scales` `[groups, out]`, `g_idx` `[in]`."""

    def __init__(
        self,
        name: str,
        qweight: AnyArray,
        qzeros: AnyArray,
        scales: AnyArray,
        g_idx: AnyArray | None,
        *,
        bits: int,
        zero_offset: int,
    ) -> None:
        """`zero_offset` is 1 for the first GPTQ file format, which stores zero - 1, and 0 for gptq_v2."""
        self.bits = bits
        if qweight.ndim != 2 or scales.ndim != 2 or bits not in (4, 8):
            raise UnsupportedModelError(f"{name}: GPTQ qweight {qweight.shape} with {bits} bits; 4 and 8 are supported")
        cols, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
        if scales.shape[1] != rows or qzeros.shape != (scales.shape[0], -(-rows * bits // 32)):
            raise CheckpointError(f"{name}: qweight {qweight.shape}, scales {scales.shape}, qzeros {qzeros.shape}")
        self.group = _group_size(name, cols, scales.shape[0])
        self.symmetric = False
        self._qweight, self._qzeros, self._raw_scales, self._zero_offset = qweight, qzeros, scales, zero_offset
        self.column_group = _column_group(name, g_idx, cols, self.group, scales.shape[0])
        self._finish(name, "GPTQ", (rows, cols))

    def _codes(self, start: int, stop: int) -> UInt8:
        return _unpack_words(self._qweight[:, start:stop].T, self.bits)

    def _scales(self, start: int, stop: int) -> Float32:
        return self._raw_scales[:, start:stop].T.astype(np.float32)

    def _zeros(self, start: int, stop: int) -> UInt8:
        stored = _unpack_words(self._qzeros, self.bits)[:, start:stop].T
        return (stored + np.uint8(self._zero_offset)) & np.uint8((1 << self.bits) - 1)


class AwqTensor(GroupQuantTensor):
    """AWQ (GEMM order): `qweight` int32 `[in, out / 8]`, nibbles along the output in the order 0 2 4 6 1 3 5 7."""

    bits = 4
    symmetric = False

    def __init__(self, name: str, qweight: AnyArray, qzeros: AnyArray, scales: AnyArray) -> None:
        """Check that the three arrays agree."""
        if qweight.ndim != 2 or scales.ndim != 2:
            raise CheckpointError(f"{name}: qweight {qweight.shape} and scales {scales.shape} must be matrices")
        cols, rows = qweight.shape[0], qweight.shape[1] * 8
        if scales.shape[1] != rows or qzeros.shape != (scales.shape[0], qweight.shape[1]):
            raise CheckpointError(f"{name}: qweight {qweight.shape}, scales {scales.shape}, qzeros {qzeros.shape}")
        self.group = _group_size(name, cols, scales.shape[0])
        self._qweight, self._qzeros, self._raw_scales = qweight, qzeros, scales
        self._finish(name, "AWQ", (rows, cols))

    def _codes(self, start: int, stop: int) -> UInt8:
        return self._columns(self._qweight, start, stop)

    def _scales(self, start: int, stop: int) -> Float32:
        return self._raw_scales[:, start:stop].T.astype(np.float32)

    def _zeros(self, start: int, stop: int) -> UInt8:
        return self._columns(self._qzeros, start, stop)

    @staticmethod
    def _columns(words: AnyArray, start: int, stop: int) -> UInt8:
        """Output columns `[start, stop)` as rows: uint8 `[stop - start, in]`."""
        first, last = start // 8, -(-stop // 8)
        nibbles = _unpack_words(words[:, first:last], 4).reshape(words.shape[0], -1, 8)
        ordered = np.empty_like(nibbles)
        ordered[:, :, list(_AWQ_ORDER)] = nibbles
        return ordered.reshape(words.shape[0], -1)[:, start - first * 8 : stop - first * 8].T


def _fp8_values(dtype: str) -> Float32:
    """The 256 values of an FP8 type, float32 `[256]`."""
    kind = ml_dtypes.float8_e4m3fn if dtype == "F8_E4M3" else ml_dtypes.float8_e5m2
    values: Float32 = np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
    return values


def _unpack_words(words: AnyArray, bits: int) -> UInt8:
    """Split int32 `[n, m]` into codes uint8 `[n, m * 32 / bits]`, lowest bits first."""
    count = 32 // bits
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    codes = np.empty((words.shape[0], words.shape[1] * count), np.uint8)
    codes[:, 0::2] = octets & np.uint8(15)
    codes[:, 1::2] = octets >> np.uint8(4)
    return codes


def _group_size(name: str, cols: int, groups: int) -> int:
    if groups == 0 or cols % groups:
        raise CheckpointError(f"{name}: {groups} groups do not divide {cols} columns")
    return cols // groups


def _column_group(
    name: str, g_idx: AnyArray | None, cols: int, group: int, groups: int
) -> npt.NDArray[np.int64] | None:
    """The group of each column where an activation order was used; None where it is the plain one."""
    if g_idx is None:
        return None
    index = g_idx.reshape(-1).astype(np.int64)
    if len(index) != cols or index.min(initial=0) < 0 or index.max(initial=0) >= groups:
        raise CheckpointError(f"{name}: g_idx has {len(index)} entries up to {index.max(initial=0)}; {cols}, {groups}")
    return None if np.array_equal(index, np.arange(cols) // group) else index
