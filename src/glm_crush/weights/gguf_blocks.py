"""The block types of GGUF: to float32, and to integer codes where a packed layout can hold them.

Layouts: ggml-common.h of llama.cpp. Float values come from the `gguf` library; what is own here is the way to codes
without going through floats. Above: `weights.gguf_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.layout import QuantBlocks, bfloat16_bits_to_float32
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["GgufTensor"]

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

_PLAIN: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
# The non-linear 4-bit values of IQ4_NL and IQ4_XS, and twice those of MXFP4's e2m1.
_IQ4_VALUES: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_VALUES: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


class GgufTensor(SourceTensor):
    """A matrix (or vector) of one GGUF type."""

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], data: UInt8) -> None:
        """`data` is uint8 `[rows, bytes per row]`, a view of the file; `shape` has as many rows."""
        self.name, self.dtype, self.shape = name, dtype, shape
        self.block_format = _BLOCKS[dtype][0] if dtype in _BLOCKS and len(shape) == 2 else None
        self._data = data

    def rows(self, start: int, stop: int) -> Float32:
        if len(self.shape) == 1:
            return self._decode(self._data)[0, start:stop]
        per_row = len(self._data) // self.shape[0]  # more than one in tensors of three dimensions
        part = self._decode(self._data[start * per_row : stop * per_row])
        return part.reshape(stop - start, *self.shape[1:])

    def blocks(self, start: int = 0, stop: int | None = None) -> QuantBlocks | None:
        if self.block_format is None:
            return None
        try:
            return _BLOCKS[self.dtype][1](self._data[start:stop])
        except OverflowError as error:
            raise CheckpointError(f"{self.name}: {error}") from error

    def _decode(self, data: UInt8) -> Float32:
        """float32 `[rows, cols]` of raw rows."""
        if self.dtype in _PLAIN:
            return np.ascontiguousarray(data).view(_PLAIN[self.dtype]).astype(np.float32)
        if self.dtype == "BF16":
            return bfloat16_bits_to_float32(np.ascontiguousarray(data).view("<u2"))
        kind = GGMLQuantizationType[self.dtype]
        try:
            with np.errstate(all="ignore"):  # a damaged scale gives inf or NaN, which the quantiser reports
                values: Float32 = quants.dequantize(np.ascontiguousarray(data), kind)
        except NotImplementedError as error:
            raise UnsupportedModelError(f"{self.name}: ggml type {self.dtype} is not supported") from error
        return values


def _split(data: UInt8, dtype: str) -> UInt8:
    """Raw rows as blocks: `[rows, blocks, bytes per block]`."""
    block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][1]
    return data.reshape(len(data), -1, block_bytes)


def _half(part: UInt8) -> npt.NDArray[np.float16]:
    """Two bytes `[rows, blocks, 2]` as float16 `[rows, blocks]`."""
    return np.ascontiguousarray(part).view("<f2")[..., 0]


def _nibbles(quants_bytes: UInt8) -> UInt8:
    """`[..., 16 or 32]` bytes as all low nibbles, then all high ones."""
    return np.concatenate([quants_bytes & np.uint8(15), quants_bytes >> np.uint8(4)], axis=-1)


def _flat(codes: UInt8) -> UInt8:
    return codes.reshape(codes.shape[0], -1)


def _q4_0(data: UInt8) -> QuantBlocks:
    blocks = _split(data, "Q4_0")
    return QuantBlocks(4, _flat(_nibbles(blocks[:, :, 2:])), _half(blocks[:, :, :2]))


def _q4_1(data: UInt8) -> QuantBlocks:
    blocks = _split(data, "Q4_1")
    return QuantBlocks(4, _flat(_nibbles(blocks[:, :, 4:])), _half(blocks[:, :, :2]), _half(blocks[:, :, 2:4]))


def _q5_0(data: UInt8) -> QuantBlocks:
    """Weight = d * (q - 16), q of 5 bits whose high bits are collected in a uint32."""
    blocks = _split(data, "Q5_0")
    high = np.unpackbits(np.ascontiguousarray(blocks[:, :, 2:6]), axis=-1, bitorder="little")
    codes = _nibbles(blocks[:, :, 6:]) | (high << np.uint8(4))
    return QuantBlocks(8, _flat(codes + np.uint8(128 - 16)), _half(blocks[:, :, :2]))


def _q8_0(data: UInt8) -> QuantBlocks:
    blocks = _split(data, "Q8_0")
    return QuantBlocks(8, _flat(blocks[:, :, 2:] ^ np.uint8(128)), _half(blocks[:, :, :2]))


def _q4_k(data: UInt8) -> QuantBlocks:
    """Weight = d * sc * q - dmin * m with 6-bit sc and m per 32; d * sc and dmin * m round to float16."""
    blocks = _split(data, "Q4_K")
    d, dmin = (_half(blocks[:, :, i : i + 2]).astype(np.float32)[..., None] for i in (0, 2))
    packed = blocks[:, :, 4:16].reshape(*blocks.shape[:2], 3, 4)
    low_d, low_m, high = packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
    scale = np.concatenate([low_d & 63, (high & 15) | ((low_d >> 2) & 48)], axis=-1)
    minimum = np.concatenate([low_m & 63, (high >> 4) | ((low_m >> 2) & 48)], axis=-1)
    codes = _nibbles(blocks[:, :, 16:].reshape(*blocks.shape[:2], 4, 32))
    scales, mins = _float16(d * scale), _float16(-dmin * minimum)
    return QuantBlocks(4, _flat(codes), scales.reshape(len(data), -1), mins.reshape(len(data), -1))


def _iq4_nl(data: UInt8) -> QuantBlocks:
    blocks = _split(data, "IQ4_NL")
    return QuantBlocks(8, _flat(_looked_up(_IQ4_VALUES, _nibbles(blocks[:, :, 2:]))), _half(blocks[:, :, :2]))


def _iq4_xs(data: UInt8) -> QuantBlocks:
    """Weight = d * (ls - 32) * value, ls of 6 bits per 32; d * (ls - 32) rounds to float16."""
    blocks = _split(data, "IQ4_XS")
    d = _half(blocks[:, :, :2]).astype(np.float32)[..., None]
    high = np.ascontiguousarray(blocks[:, :, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = np.repeat(blocks[:, :, 4:8], 2, axis=-1) >> np.tile(np.array([0, 4], np.uint8), 4)
    ls = (low & np.uint8(15)) | ((high & np.uint16(3)) << np.uint16(4)).astype(np.uint8)
    codes = _looked_up(_IQ4_VALUES, _nibbles(blocks[:, :, 8:].reshape(*blocks.shape[:2], 8, 16)))
    return QuantBlocks(8, _flat(codes), _float16(d * (ls.astype(np.float32) - 32)).reshape(len(data), -1))


def _mxfp4(data: UInt8) -> QuantBlocks:
    """Weight = 2^(e - 128) * value, with values twice e2m1; powers of two down to 2^-24 are exact in float16."""
    blocks = _split(data, "MXFP4")
    scales = np.ldexp(np.float32(1), blocks[:, :, 0].astype(np.int32) - 128)
    return QuantBlocks(8, _flat(_looked_up(_E2M1_VALUES, _nibbles(blocks[:, :, 1:]))), _float16(scales))


def _looked_up(values: tuple[int, ...], codes: UInt8) -> UInt8:
    return (np.array(values, np.int16) + 128).astype(np.uint8)[codes]


def _float16(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    largest = float(np.abs(values).max(initial=0))
    if largest > 65504:
        raise OverflowError(f"a scale of {largest:g} does not fit float16; the tensor is damaged")
    return values.astype(np.float16)


_BLOCKS: Final[Mapping[str, tuple[str, Callable[[UInt8], QuantBlocks]]]] = {
    "Q4_0": ("q4", _q4_0),
    "Q4_1": ("q4a", _q4_1),
    "Q4_K": ("q4a", _q4_k),
    "Q5_0": ("q8g", _q5_0),
    "Q8_0": ("q8g", _q8_0),
    "IQ4_NL": ("q8g", _iq4_nl),
    "IQ4_XS": ("q8g", _iq4_xs),
    "MXFP4": ("q8g", _mxfp4),
}
