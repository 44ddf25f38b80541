"""Which packed format a weight gets, and source rows in that format.

Codes are carried over unchanged where the format can hold them; everything else goes through float32. Above:
`weights.pack`. Below: `layout`, `quantize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.errors import UnsupportedModelError
from glm_crush.weights.layout import (
    QuantBlocks,
    RowQuant,
    interleave_gated,
    pack_bf16,
    pack_blocks,
    pack_f32,
    pack_rows,
    padding_code,
)
from glm_crush.weights.packed_size import FORMATS
from glm_crush.weights.plan import WEIGHT_FORMATS
from glm_crush.weights.quantize import check_finite, quantize_q4, quantize_q4a, quantize_q8, quantize_q8g
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["Rows", "choose_format", "float_rows", "interleave_rows", "join_rows", "pack_any", "source_rows"]

Float32 = npt.NDArray[np.float32]
Rows = QuantBlocks | RowQuant | Float32

_WIDTH: Final = {name: index for index, name in enumerate(("q4", "q4a", "q8", "q8g", "bf16", "f32"))}
# What "auto" makes of types whose codes no layout holds: about as many bits as the source.
_AUTO: Final = {"F32": "f32", "F64": "f32", "F16": "bf16", "BF16": "bf16"}
_UNDER_FIVE_BITS: Final = ("Q2_", "Q3_", "Q4_", "IQ1", "IQ2", "IQ3", "TQ", "Q1_", "NVFP4", "INT4", "GPTQ4", "AWQ4")


def choose_format(tensors: Sequence[SourceTensor], weight_format: str) -> str:
    """The packed format of a weight that is fused from `tensors`: the widest that one of them asks for.

    Args:
        tensors: its sources.
        weight_format: "auto" follows each source; "q4" keeps 4-bit codes and quantises the rest to q4; "q8" keeps codes
            of at most 8 bits and quantises the rest to q8; "bf16" and "f32" are meant literally.

    Raises:
        UnsupportedModelError: there is no such weight format.
    """
    if weight_format not in WEIGHT_FORMATS:
        raise UnsupportedModelError(f"weight format {weight_format!r}; choose one of {', '.join(WEIGHT_FORMATS)}")
    wanted = {_format_of(tensor, weight_format) for tensor in tensors}
    return max(wanted, key=_WIDTH.__getitem__)


def _format_of(tensor: SourceTensor, weight_format: str) -> str:
    kept = tensor.block_format
    if weight_format == "auto":
        return kept or _auto_format(tensor.dtype)
    if weight_format == "q4":
        return kept if kept in ("q4", "q4a") else "q4"
    if weight_format == "q8":
        return "q8g" if kept in ("q4", "q8g") else "q8"
    return weight_format


def _auto_format(dtype: str) -> str:
    if dtype in _AUTO:
        return _AUTO[dtype]
    return "q4a" if dtype.startswith(_UNDER_FIVE_BITS) else "q8g"


def source_rows(tensor: SourceTensor, weight_format: str, start: int, stop: int) -> Rows:
    """Rows `[start, stop)` of a tensor, ready for `pack_any`.

    Raises:
        ValueError: a weight is not finite.
    """
    if tensor.block_format is not None and weight_format in ("q4", "q4a", "q8g"):
        blocks = tensor.blocks(start, stop)
        widened = None if blocks is None else _widened(blocks, weight_format)
        if widened is not None:
            check_finite(widened.scales)
            if widened.mins is not None:
                check_finite(widened.mins)
            return widened
    return float_rows(tensor.rows(start, stop), weight_format)


def float_rows(values: Float32, weight_format: str) -> Rows:
    """Float rows in a format, quantised if need be. Raises ValueError when a weight is not finite."""
    assert weight_format in FORMATS, weight_format
    if weight_format == "q4":
        return quantize_q4(values)
    if weight_format == "q4a":
        return quantize_q4a(values)
    if weight_format == "q8g":
        return quantize_q8g(values)
    if weight_format == "q8":
        return quantize_q8(values)
    check_finite(values)
    return values


def _widened(blocks: QuantBlocks, weight_format: str) -> QuantBlocks | None:
    """The same weights in a wider format of blocks, or None where that would change them."""
    if blocks.format == weight_format:
        return blocks
    if blocks.format == "q4" and weight_format == "q8g":
        return QuantBlocks(8, blocks.codes + np.uint8(128 - 8), blocks.scales)
    if blocks.format == "q4" and weight_format == "q4a" and np.abs(blocks.scales).max(initial=0) < 65504 / 8:
        return QuantBlocks(4, blocks.codes, blocks.scales, blocks.scales * np.float16(-8))  # a power of two: exact
    return None


def pack_any(rows: Rows, weight_format: str) -> npt.NDArray[np.uint8]:
    """Pack rows that are in `weight_format`."""
    if isinstance(rows, QuantBlocks):
        return pack_blocks(rows)
    if isinstance(rows, RowQuant):
        return pack_rows(rows)
    return pack_bf16(rows) if weight_format == "bf16" else pack_f32(rows)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of one format, one after another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, QuantBlocks):
        blocks = [part for part in parts if isinstance(part, QuantBlocks)]
        mins = None if first.mins is None else _joined([b.mins for b in blocks])
        codes, scales = _joined([b.codes for b in blocks]), _joined([b.scales for b in blocks])
        return QuantBlocks(first.bits, codes, scales, mins)
    if isinstance(first, RowQuant):
        quants = [part for part in parts if isinstance(part, RowQuant)]
        return RowQuant(_joined([q.codes for q in quants]), _joined([q.scales for q in quants]))
    return _joined(list(parts))


def interleave_rows(gate: Rows, up: Rows) -> Rows:
    """Alternate panels of gate and up rows of one format; padding rows are zero weights."""
    if isinstance(gate, QuantBlocks):
        assert isinstance(up, QuantBlocks)
        mins = None if gate.mins is None or up.mins is None else interleave_gated(gate.mins, up.mins)
        codes = interleave_gated(gate.codes, up.codes, padding_code(gate.format))
        return QuantBlocks(gate.bits, codes, interleave_gated(gate.scales, up.scales), mins)
    if isinstance(gate, RowQuant):
        assert isinstance(up, RowQuant)
        return RowQuant(interleave_gated(gate.codes, up.codes, 128), interleave_gated(gate.scales, up.scales))
    assert not isinstance(up, (QuantBlocks, RowQuant))
    return interleave_gated(gate, up)


def _joined(arrays: Sequence[Any]) -> npt.NDArray[Any]:
    return np.concatenate(arrays)
