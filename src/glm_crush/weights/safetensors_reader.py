"""One safetensors file: a checked header over a memory map.

    8 bytes  length of the header, little endian
    header   JSON: name -> {dtype, shape, data_offsets}, offsets counted from the end of the header
    data

The library's NumPy reader knows neither BF16 nor FP8 and copies, so the header is read here. Everything in it is
checked against the file's size before use. Above: `weights.checkpoint`.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.json_file import unique_keys

__all__ = ["RawTensor", "map_file", "read_safetensors"]

_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the reference implementation
_MAX_COUNT: Final = 2**48
_DTYPES: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "u1",
}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as stored: its type by name and a read-only view (uint16 bits for BF16, uint8 for FP8)."""

    name: str
    dtype: str
    data: npt.NDArray[Any]


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file as a read-only map. Raises CheckpointError when it is missing or empty."""
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_safetensors(path: Path) -> dict[str, RawTensor]:
    """The tensors of one file, as views of its map.

    Raises:
        CheckpointError: the file is truncated, or its header is malformed or contradicts the file.
        UnsupportedModelError: a tensor has an unknown type.
    """
    data = map_file(path)
    header, start = _read_header(path, data)
    tensors: dict[str, RawTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensor, span = _view(path, name, entry, data[start:])
        tensors[name] = tensor
        spans.append((*span, name))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        if begin < end:
            raise CheckpointError(f"{path}: tensors {first!r} and {second!r} overlap at data offset {begin}")
    return tensors


def _read_header(path: Path, data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise CheckpointError(f"{path} has {len(data)} bytes; a safetensors file has at least 8")
    size = int.from_bytes(data[:8].tobytes(), "little")
    limit = min(_MAX_HEADER_BYTES, len(data) - 8)
    if size > limit:
        raise CheckpointError(
            f"{path}: header of {size} bytes, at most {limit} are possible; the file is truncated: fetch it again"
        )
    try:
        header = json.loads(data[8 : 8 + size].tobytes(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is {type(header).__name__}, not an object")
    return header, 8 + size


def _view(path: Path, name: str, entry: object, data: npt.NDArray[np.uint8]) -> tuple[RawTensor, tuple[int, int]]:
    """Check one header entry against the data region and make its view."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: header entry of {name!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UnsupportedModelError(f"{path}: tensor {name!r} has unknown type {dtype!r}; known: {', '.join(_DTYPES)}")
    if not _is_counts(shape) or len(shape) > 8:
        raise CheckpointError(f"{path}: tensor {name!r} has shape {str(shape)[:80]}; give at most 8 counts")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: tensor {name!r} has data_offsets {str(offsets)[:80]}; two counts are due")
    begin, end = offsets
    storage = np.dtype(_DTYPES[dtype])
    nbytes = math.prod(shape) * storage.itemsize
    if end > len(data) or begin > end:
        raise CheckpointError(
            f"{path}: tensor {name!r} lies at [{begin}, {end}) of {len(data)} data bytes; "
            "the file is truncated: fetch it again"
        )
    if end - begin != nbytes:
        raise CheckpointError(f"{path}: tensor {name!r} has {end - begin} bytes, {dtype} {shape} needs {nbytes}")
    view = data[begin:end]
    if view.ctypes.data % storage.itemsize:
        view = view.copy()  # old writers did not align the header
    try:
        return RawTensor(name, dtype, view.view(storage).reshape(shape)), (begin, end)
    except ValueError as error:  # an empty tensor whose other dimensions overflow
        raise CheckpointError(f"{path}: tensor {name!r} cannot have shape {shape}: {error}") from error


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _MAX_COUNT for n in value)
