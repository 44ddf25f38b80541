"""The run-time layouts of packed weights, in NumPy: pack and unpack. The native kernels read the same bytes.

A weight is `[rows N, cols K]`; N is padded to a multiple of 32 with zero rows, K to a multiple of 64.
A panel is 16 rows over all K and is contiguous, so a weight can be packed a few panels at a time.
Per panel and per block of 64 columns, two groups g = 0, 1 of 32 columns:

    q4   576 B  float16 scales[2][16], then 8 lines of 64 B. Line 4g+j, byte r*4+b: low nibble column 32g+4j+b,
                high nibble column 32g+16+4j+b of row r. w = scale * (code - 8)
    q4a  640 B  float16 scales[2][16], float16 mins[2][16], then lines as q4. w = scale * code + min
    q8g 1088 B  float16 scales[2][16], then 16 lines of 64 B. Line 8g+j, byte r*4+b: column 32g+4j+b.
                w = scale * (code - 128)
    q8          once per panel float32 scales[16]; per block 16 lines as q8g. w = scale[row] * (code - 128)
    bf16        per pair of columns one line of 64 B: row r at bytes 4r: even column, odd column
    f32         per column one line: 16 float32

Experts are such weights back to back. All numbers are little endian. This module knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.weights.packed_size import BLOCK_BYTES, BLOCK_COLS, GROUP, PANEL_ROWS, ROW_ALIGN, panel_nbytes

__all__ = [
    "QuantBlocks",
    "RowQuant",
    "bfloat16_bits_to_float32",
    "float32_to_bfloat16_bits",
    "interleave_gated",
    "pack_bf16",
    "pack_blocks",
    "pack_f32",
    "pack_rows",
    "padding_code",
    "unpack",
]

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantBlocks:
    """Integer codes with one float16 scale (and perhaps minimum) per row and group of 32 columns.

    Attributes:
        bits: 4 or 8.
        codes: uint8 `[rows, cols]`; 4 bits 0..15, 8 bits the signed integer + 128.
        scales: float16 `[rows, ceil(cols / 32)]`.
        mins: float16 like `scales` (4 bits only): w = scale * code + min; None: w = scale * (code - 8 or 128).
    """

    bits: int
    codes: UInt8
    scales: npt.NDArray[np.float16]
    mins: npt.NDArray[np.float16] | None = None

    @property
    def format(self) -> str:
        """The layout that holds these codes unchanged."""
        if self.bits == 8:
            return "q8g"
        return "q4" if self.mins is None else "q4a"

    def float32(self) -> Float32:
        """The weights these codes stand for, float32 `[rows, cols]`."""
        cols = self.codes.shape[1]
        scales = np.repeat(self.scales.astype(np.float32), GROUP, axis=1)[:, :cols]
        if self.mins is not None:
            mins = np.repeat(self.mins.astype(np.float32), GROUP, axis=1)[:, :cols]
            return self.codes.astype(np.float32) * scales + mins
        centre = np.float32(8 if self.bits == 4 else 128)
        return (self.codes.astype(np.float32) - centre) * scales


@dataclass(frozen=True)
class RowQuant:
    """8-bit codes with one float32 scale per row: uint8 `[rows, cols]` (integer + 128), float32 `[rows]`."""

    codes: UInt8
    scales: Float32

    def float32(self) -> Float32:
        """The weights these codes stand for, float32 `[rows, cols]`."""
        return (self.codes.astype(np.float32) - np.float32(128)) * self.scales[:, None]


def interleave_gated(gate: AnyArray, up: AnyArray, fill: float = 0) -> AnyArray:
    """Alternate panels of gate and up rows.

    Args:
        gate: `[I, ...]`.
        up: same shape and dtype.
        fill: value of the padding rows when I is not a multiple of 16.

    Returns:
        `[2 * ceil(I / 16) * 16, ...]`: rows 32i..32i+15 are gate rows 16i.., rows 32i+16.. are up rows 16i...
    """
    gate, up = (_pad(half, PANEL_ROWS, 0, fill) for half in (gate, up))
    rest = gate.shape[1:]
    pair = np.stack([gate.reshape(-1, PANEL_ROWS, *rest), up.reshape(-1, PANEL_ROWS, *rest)], axis=1)
    return pair.reshape(-1, *rest)


def pack_blocks(blocks: QuantBlocks) -> UInt8:
    """Pack group-quantised rows as q4, q4a or q8g.

    Slabs of a multiple of 32 rows, packed one by one, join to the packed weight.

    Returns:
        uint8 `[nbytes]`.
    """
    fmt = blocks.format
    codes = _panels(blocks.codes, padding_code(fmt))
    num_panels, num_blocks = codes.shape[0], codes.shape[2]
    out = np.empty((num_panels, num_blocks, BLOCK_BYTES[fmt]), np.uint8)
    out[:, :, :64] = _group_values(blocks.scales, num_panels, num_blocks)
    start = 64
    if blocks.mins is not None:
        out[:, :, 64:128] = _group_values(blocks.mins, num_panels, num_blocks)
        start = 128
    if blocks.bits == 4:
        groups = codes.reshape(num_panels, PANEL_ROWS, num_blocks, 2, 2, 16)
        nibbles = groups[:, :, :, :, 0] | (groups[:, :, :, :, 1] << np.uint8(4))
        lines = nibbles.reshape(num_panels, PANEL_ROWS, num_blocks, 8, 4)
    else:
        lines = codes.reshape(num_panels, PANEL_ROWS, num_blocks, 16, 4)
    out[:, :, start:] = lines.transpose(0, 2, 3, 1, 4).reshape(num_panels, num_blocks, -1)
    return out.reshape(-1)


def pack_rows(quant: RowQuant) -> UInt8:
    """Pack row-quantised 8-bit weights as q8; see `pack_blocks`."""
    codes = _panels(quant.codes, 128)
    num_panels, num_blocks = codes.shape[0], codes.shape[2]
    scales = np.zeros(num_panels * PANEL_ROWS, np.float32)
    scales[: len(quant.scales)] = quant.scales
    out = np.empty((num_panels, 64 + num_blocks * 1024), np.uint8)
    out[:, :64] = scales.reshape(num_panels, PANEL_ROWS).view(np.uint8)
    lines = codes.reshape(num_panels, PANEL_ROWS, num_blocks, 16, 4)
    out[:, 64:] = lines.transpose(0, 2, 3, 1, 4).reshape(num_panels, -1)
    return out.reshape(-1)


def pack_bf16(values: Float32) -> UInt8:
    """Round float32 `[rows, cols]` to bfloat16 (nearest even) and pack it."""
    bits = _panels(float32_to_bfloat16_bits(values), 0)
    num_panels, num_blocks = bits.shape[0], bits.shape[2]
    pairs = bits.reshape(num_panels, PANEL_ROWS, num_blocks * 32, 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pairs).reshape(-1).view(np.uint8)


def pack_f32(values: Float32) -> UInt8:
    """Pack float32 `[rows, cols]`."""
    panels = _panels(np.asarray(values, np.float32), 0)
    lines = panels.reshape(panels.shape[0], PANEL_ROWS, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(lines).reshape(-1).view(np.uint8)


def unpack(data: UInt8, weight_format: str, rows: int, cols: int, experts: int = 1) -> Float32:
    """The weights in packed bytes, float32 `[experts, rows, cols]` (`[rows, cols]` for one expert).

    A gated weight comes back in its interleaved row order.
    """
    num_panels = -(-rows // ROW_ALIGN) * (ROW_ALIGN // PANEL_ROWS) * experts
    panels = np.ascontiguousarray(data).reshape(num_panels, panel_nbytes(weight_format, cols))
    values = _UNPACK[weight_format](panels)
    values = values.reshape(experts, -1, values.shape[-1])[:, :rows, :cols]
    return np.ascontiguousarray(values[0] if experts == 1 else values)


def float32_to_bfloat16_bits(values: Float32) -> npt.NDArray[np.uint16]:
    """Upper 16 bits of float32, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        rounded[nan] = ((bits[nan] >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return rounded


def bfloat16_bits_to_float32(bits: npt.NDArray[np.uint16]) -> Float32:
    """float32 of the same shape."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def padding_code(weight_format: str) -> int:
    """The code of padding in a format of QuantBlocks; its scale (and minimum) is 0."""
    return {"q4": 8, "q4a": 0, "q8g": 128}[weight_format]


def _pad(array: AnyArray, multiple: int, axis: int, fill: float) -> AnyArray:
    missing = -array.shape[axis] % multiple
    if missing == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths, constant_values=fill)


def _panels(array: AnyArray, fill: float) -> AnyArray:
    """`[rows, cols]` padded with `fill`, as `[panels, 16, blocks, 64]`."""
    array = _pad(_pad(array, ROW_ALIGN, 0, fill), BLOCK_COLS, 1, fill)
    return array.reshape(-1, PANEL_ROWS, array.shape[1] // BLOCK_COLS, BLOCK_COLS)


def _group_values(values: npt.NDArray[np.float16], num_panels: int, num_blocks: int) -> UInt8:
    """Scales or mins `[rows, groups]` as the 64 bytes `[2][16]` float16 of each block: `[panels, blocks, 64]`."""
    full = np.zeros((num_panels * PANEL_ROWS, num_blocks * 2), np.float16)
    full[: values.shape[0], : values.shape[1]] = values
    ordered = full.reshape(num_panels, PANEL_ROWS, num_blocks, 2).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(ordered).view(np.uint8).reshape(num_panels, num_blocks, 64)


def _split_groups(block: UInt8) -> Float32:
    """64 bytes `[panels, blocks, 64]` as float32 `[panels, 16, blocks, 2, 1]`."""
    values = np.ascontiguousarray(block).view(np.float16).reshape(*block.shape[:2], 2, PANEL_ROWS)
    return values.transpose(0, 3, 1, 2)[..., None].astype(np.float32)


def _lines_to_codes(lines: UInt8, num_lines: int) -> UInt8:
    """Lines `[panels, blocks, num_lines * 64]` as `[panels, 16, blocks, 2, num_lines * 2]`."""
    split = lines.reshape(*lines.shape[:2], 2, num_lines // 2, PANEL_ROWS, 4)
    return split.transpose(0, 4, 1, 2, 3, 5).reshape(lines.shape[0], PANEL_ROWS, lines.shape[1], 2, num_lines * 2)


def _unpack_q4(panels: UInt8, has_mins: bool = False) -> Float32:
    blocks = panels.reshape(panels.shape[0], -1, 640 if has_mins else 576)
    scales = _split_groups(blocks[:, :, :64])
    nibbles = _lines_to_codes(blocks[:, :, 128 if has_mins else 64 :], 8)
    codes = np.concatenate([nibbles & np.uint8(15), nibbles >> np.uint8(4)], axis=-1).astype(np.float32)
    if has_mins:
        values = codes * scales + _split_groups(blocks[:, :, 64:128])
    else:
        values = (codes - np.float32(8)) * scales
    return values.reshape(-1, blocks.shape[1] * BLOCK_COLS)


def _unpack_q4a(panels: UInt8) -> Float32:
    return _unpack_q4(panels, has_mins=True)


def _unpack_q8g(panels: UInt8) -> Float32:
    blocks = panels.reshape(panels.shape[0], -1, 1088)
    codes = _lines_to_codes(blocks[:, :, 64:], 16).astype(np.float32)
    values = (codes - np.float32(128)) * _split_groups(blocks[:, :, :64])
    return values.reshape(-1, blocks.shape[1] * BLOCK_COLS)


def _unpack_q8(panels: UInt8) -> Float32:
    scales = np.ascontiguousarray(panels[:, :64]).view(np.float32)
    blocks = panels[:, 64:].reshape(panels.shape[0], -1, 1024)
    codes = _lines_to_codes(blocks, 16).astype(np.float32)
    values = (codes - np.float32(128)) * scales[:, :, None, None, None]
    return values.reshape(-1, blocks.shape[1] * BLOCK_COLS)


def _unpack_bf16(panels: UInt8) -> Float32:
    pairs = panels.view(np.uint16).reshape(panels.shape[0], -1, PANEL_ROWS, 2).transpose(0, 2, 1, 3)
    return bfloat16_bits_to_float32(np.ascontiguousarray(pairs)).reshape(panels.shape[0] * PANEL_ROWS, -1)


def _unpack_f32(panels: UInt8) -> Float32:
    lines = panels.view(np.float32).reshape(panels.shape[0], -1, PANEL_ROWS)
    return np.ascontiguousarray(lines.transpose(0, 2, 1)).reshape(panels.shape[0] * PANEL_ROWS, -1)


_UNPACK = {
    "q4": _unpack_q4,
    "q4a": _unpack_q4a,
    "q8g": _unpack_q8g,
    "q8": _unpack_q8,
    "bf16": _unpack_bf16,
    "f32": _unpack_f32,
}
