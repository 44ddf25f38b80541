"""One GGUF file: a checked header over a memory map.

    magic "GGUF", version, tensor count, key count
    keys       name, type, value; arrays have an element type and a count
    tensors    name, dimensions (fastest first), type, offset from the start of the data
    data       starts at the next multiple of `general.alignment`

The library's reader trusts the counts it finds; this one believes no number before it is compared with what is left of
the file, so memory stays proportional to the file. Above: `weights.gguf_checkpoint`. Knows no architectures.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.safetensors_reader import map_file

__all__ = ["GgufFile", "GgufRawTensor", "read_gguf"]

_MAX_DIMS: Final = 4
_MAX_NAME_BYTES: Final = 4096
_MAX_ALIGNMENT: Final = 1 << 20
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class GgufRawTensor:
    """A tensor as stored.

    Attributes:
        dtype: name of its ggml type. shape: rows last-dimension fastest, as NumPy counts (`[out, in]`).
        data: uint8 `[rows, bytes per row]`, a view; the rows are all dimensions but the last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """Metadata and tensors of one file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufRawTensor]


class _Cursor:
    """A position in the map; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8]) -> None:
        self.path = path
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, nbytes: int, what: str) -> npt.NDArray[np.uint8]:
        if nbytes > self.left:
            raise CheckpointError(
                f"{self.path}: {what} needs {nbytes} bytes at offset {self.position}, {self.left} are left; "
                "the file is truncated: fetch it again"
            )
        start = self.position
        self.position += nbytes
        return self.data[start : self.position]

    def unpack(self, code: str, what: str) -> int:
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what).tobytes())[0]
        return value

    def count(self, smallest: int, what: str) -> int:
        """A uint64 that counts things of at least `smallest` bytes each."""
        value = self.unpack("Q", what)
        if value * smallest > self.left:
            raise CheckpointError(f"{self.path}: {what} is {value}, more than the {self.left} bytes left can hold")
        return value

    def string(self, what: str, limit: int | None = None) -> str:
        size = self.count(1, f"length of {what}")
        if limit is not None and size > limit:
            raise CheckpointError(f"{self.path}: {what} has {size} bytes, at most {limit} are allowed")
        try:
            return self.take(size, what).tobytes().decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {what} is not UTF-8: {error}") from error


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file of version 2 or 3 and map its tensors.

    Raises:
        CheckpointError: the file is truncated, or its header is malformed or contradicts the file.
        UnsupportedModelError: a version, byte order or tensor type that is not supported.
    """
    cursor = _Cursor(path, map_file(path))
    if (magic := cursor.take(4, "the magic").tobytes()) != b"GGUF":
        raise CheckpointError(
            f"{path} is not a GGUF file: it starts with {magic!r}, not b'GGUF'; it is of another format, or damaged: "
            "fetch it again"
        )
    version = cursor.unpack("I", "the version")
    if version not in (2, 3):
        hint = " (a big-endian file)" if version and version & 0xFFFF == 0 else ""
        raise UnsupportedModelError(f"{path}: GGUF version {version}{hint}; 2 and 3 are supported")
    num_tensors = cursor.count(24, "tensor count")
    num_keys = cursor.count(13, "key count")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string("a key", _MAX_NAME_BYTES)
        if key in metadata:
            raise CheckpointError(f"{path}: key {key!r} appears twice")
        metadata[key] = _read_value(cursor, key)
    infos = [_read_info(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise CheckpointError(
            f"{path}: general.alignment is {alignment!r}; a power of two up to {_MAX_ALIGNMENT} is due"
        )
    data_start = -(-cursor.position // alignment) * alignment
    return GgufFile(path, metadata, _map_tensors(cursor, infos, data_start, alignment))


def _read_value(cursor: _Cursor, key: str) -> Any:
    kind = cursor.unpack("I", f"type of key {key!r}")
    if kind == _STRING:
        return cursor.string(f"key {key!r}")
    if kind in _SCALARS:
        dtype = np.dtype(_SCALARS[kind])
        return cursor.take(dtype.itemsize, f"key {key!r}").view(dtype)[0].item()
    if kind != _ARRAY:
        raise CheckpointError(f"{cursor.path}: key {key!r} has unknown type {kind}")
    element = cursor.unpack("I", f"element type of key {key!r}")
    if element == _STRING:
        count = cursor.count(8, f"count of key {key!r}")
        what = f"an element of key {key!r}"
        return [cursor.string(what) for _ in range(count)]
    if element not in _SCALARS:  # arrays of arrays are in the format but in no model file
        raise CheckpointError(f"{cursor.path}: key {key!r} is an array of unknown type {element}")
    dtype = np.dtype(_SCALARS[element])
    count = cursor.count(dtype.itemsize, f"count of key {key!r}")
    return cursor.take(count * dtype.itemsize, f"key {key!r}").view(dtype).tolist()


@dataclass(frozen=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    dtype: GGMLQuantizationType
    offset: int


def _read_info(cursor: _Cursor) -> _Info:
    name = cursor.string("a tensor name", _MAX_NAME_BYTES)
    num_dims = cursor.unpack("I", f"tensor {name!r}")
    if num_dims > _MAX_DIMS:
        raise CheckpointError(f"{cursor.path}: tensor {name!r} has {num_dims} dimensions; at most {_MAX_DIMS} exist")
    dims = [cursor.unpack("Q", f"tensor {name!r}") for _ in range(num_dims)]
    kind = cursor.unpack("I", f"tensor {name!r}")
    offset = cursor.unpack("Q", f"tensor {name!r}")
    try:
        dtype = GGMLQuantizationType(kind)
    except ValueError:
        raise UnsupportedModelError(f"{cursor.path}: tensor {name!r} has unknown ggml type {kind}") from None
    return _Info(name, tuple(reversed(dims)) or (1,), dtype, offset)


def _map_tensors(cursor: _Cursor, infos: list[_Info], start: int, alignment: int) -> dict[str, GgufRawTensor]:
    path = cursor.path
    size = len(cursor.data)
    tensors: dict[str, GgufRawTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for info in infos:
        block, block_bytes = GGML_QUANT_SIZES[info.dtype]
        cols = info.shape[-1]
        if 0 in info.shape or cols % block:
            raise CheckpointError(
                f"{path}: tensor {info.name!r} has shape {info.shape}; {info.dtype.name} rows hold "
                f"a multiple of {block} values"
            )
        row_bytes = cols // block * block_bytes
        rows = math.prod(info.shape[:-1])
        begin, end = start + info.offset, start + info.offset + rows * row_bytes
        if info.offset % alignment:
            raise CheckpointError(f"{path}: tensor {info.name!r} at offset {info.offset}, no multiple of {alignment}")
        if end > size:
            raise CheckpointError(
                f"{path}: tensor {info.name!r} ends at byte {end} of a file of {size}; "
                "the file is truncated: fetch it again"
            )
        if info.name in tensors:
            raise CheckpointError(f"{path}: tensor {info.name!r} appears twice")
        data = cursor.data[begin:end].reshape(rows, row_bytes)
        tensors[info.name] = GgufRawTensor(info.name, info.dtype.name, info.shape, data)
        spans.append((begin, end, info.name))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        if begin < end:
            raise CheckpointError(f"{path}: tensors {first!r} and {second!r} overlap at byte {begin}")
    return tensors
