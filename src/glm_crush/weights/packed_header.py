"""The header of a packed file: what it says about itself and where each tensor lies.

Reading it trusts nothing: kernels will use these numbers, so each is checked against the file's size. Above:
`weights.packed_file`. This module neither opens nor maps files.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from glm_crush.errors import PackedFileError
from glm_crush.weights.packed_size import FORMATS, LAYOUT_VERSION, packed_nbytes

__all__ = [
    "PRELUDE_BYTES",
    "TOKENIZER_BLOB",
    "PackedEntry",
    "PackedHeader",
    "data_start",
    "encode_header",
    "encode_prelude",
    "linear_entry",
    "read_header",
    "stored_data_hash",
    "vector_entry",
]

_MAGIC: Final = b"GLMCRUSH"
_PRELUDE: Final = struct.Struct("<8sIIQQ32s32s32x")  # magic, version, flags, header bytes, total bytes, two sha256
PRELUDE_BYTES: Final = _PRELUDE.size
TOKENIZER_BLOB: Final = "tokenizer.json"
_PAGE: Final = 4096
_LINE: Final = 64


@dataclass(frozen=True, kw_only=True)
class PackedHeader:
    """What a packed file says about itself, beside its weights.

    Attributes:
        config: the model's config.json. generation_config, tokenizer_config: likewise, {} when there is none.
        tokenizer_json: bytes of tokenizer.json. chat_template: Jinja source, or None.
        sentence_files: how an embedding model treats its texts, {} when nothing says.
        source_hash: hash of the checkpoint it was made from. weight_format: what was asked for ("auto", "q4", ...).
        info: anything else worth keeping (name, path of the source).
    """

    config: Mapping[str, Any]
    source_hash: str
    weight_format: str
    tokenizer_json: bytes = b""
    generation_config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None = None
    sentence_files: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any]


@dataclass(frozen=True)
class PackedEntry:
    """One tensor: its place is known before its data is (offset -1: not placed yet).

    `format` is a packed format, "vector" (float32 of `shape`) or "blob" (bytes).
    """

    name: str
    format: str
    rows: int
    cols: int
    experts: int
    shape: tuple[int, ...]
    nbytes: int
    offset: int = -1


def linear_entry(name: str, weight_format: str, rows: int, cols: int, experts: int = 1) -> PackedEntry:
    """The entry of a packed linear weight."""
    nbytes = packed_nbytes(weight_format, rows, cols, experts)
    return PackedEntry(name, weight_format, rows, cols, experts, (experts, rows, cols), nbytes)


def vector_entry(name: str, shape: Sequence[int]) -> PackedEntry:
    """The entry of a float32 array."""
    nbytes = 4 * math.prod(shape)
    return PackedEntry(name, "vector", 0, 0, 0, tuple(shape), nbytes)


def data_start(header_nbytes: int) -> int:
    """Where the data begins: the first page after the header."""
    return _align(_PRELUDE.size + header_nbytes, _PAGE)


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def encode_header(header: PackedHeader, entries: Sequence[PackedEntry]) -> tuple[list[PackedEntry], bytes, int]:
    """Place the entries. Returns them with offsets, the header's JSON (offsets count from the data), the size."""
    rows = []
    offsets = []
    offset = 0
    for entry in entries:
        offset = _align(offset, _PAGE if entry.format in FORMATS else _LINE)
        offsets.append(offset)
        rows.append(
            {
                "name": entry.name,
                "format": entry.format,
                "rows": entry.rows,
                "cols": entry.cols,
                "experts": entry.experts,
                "shape": list(entry.shape),
                "offset": offset,
                "nbytes": entry.nbytes,
            }
        )
        offset += entry.nbytes
    document = {
        "config": dict(header.config),
        "generation_config": dict(header.generation_config),
        "tokenizer_config": dict(header.tokenizer_config),
        "chat_template": header.chat_template,
        "source_hash": header.source_hash,
        "weight_format": header.weight_format,
        "sentence_files": dict(header.sentence_files),
        "info": dict(header.info),
        "tensors": rows,
    }
    header_json = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    start = data_start(len(header_json))
    placed = [replace(e, offset=start + offset) for e, offset in zip(entries, offsets, strict=True)]
    return placed, header_json, start + offset


def encode_prelude(header_json: bytes, total_nbytes: int, data_hash: bytes) -> bytes:
    """The first 128 bytes of the file."""
    header_hash = hashlib.sha256(header_json).digest()
    return _PRELUDE.pack(_MAGIC, LAYOUT_VERSION, 0, len(header_json), total_nbytes, header_hash, data_hash)


def stored_data_hash(data: memoryview) -> tuple[int, bytes]:
    """Start and expected sha256 of the data region of a mapped file."""
    fields = _PRELUDE.unpack_from(data)
    return data_start(fields[3]), fields[6]


def read_header(path: Path, data: memoryview) -> tuple[PackedHeader, dict[str, PackedEntry]]:
    """Header and entries of a mapped file.

    Raises:
        PackedFileError: it is foreign, of another layout version, truncated, damaged or lies about its tensors.
    """
    return _parse_header(path, _checked_document(path, data), data)


def _checked_document(path: Path, data: memoryview) -> dict[str, Any]:
    """Check the prelude and the header's checksum; the parsed JSON."""
    magic, version, _, header_nbytes, total, header_hash, _ = _PRELUDE.unpack_from(data)
    if magic != _MAGIC:
        raise PackedFileError(
            f"{path} is not a packed model: it starts with {bytes(magic)!r}, not {_MAGIC!r}; "
            "`glm quantize` writes packed models"
        )
    if version != LAYOUT_VERSION:
        raise PackedFileError(
            f"{path} has layout version {version}, this program reads {LAYOUT_VERSION}; delete it to pack again"
        )
    if total != len(data):
        raise PackedFileError(f"{path} is truncated or grew: {len(data)} bytes instead of {total}; delete it")
    if header_nbytes > total - _PRELUDE.size:
        raise PackedFileError(f"{path}: header of {header_nbytes} bytes does not fit the file of {total}; delete it")
    header_json = data[_PRELUDE.size : _PRELUDE.size + header_nbytes].tobytes()
    if hashlib.sha256(header_json).digest() != header_hash:
        raise PackedFileError(f"{path}: the header does not match its checksum; delete it to pack again")
    try:
        document = json.loads(header_json)
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise PackedFileError(f"{path}: the header is not a JSON object")
    return document


def _parse_header(
    path: Path, document: dict[str, Any], data: memoryview
) -> tuple[PackedHeader, dict[str, PackedEntry]]:
    """Header and entries; a file that lies about them is refused, since kernels trust these numbers."""
    start, _ = stored_data_hash(data)
    entries: dict[str, PackedEntry] = {}
    try:
        for row in document["tensors"]:
            offset = start + int(row["offset"])
            entry = PackedEntry(
                str(row["name"]),
                str(row["format"]),
                int(row["rows"]),
                int(row["cols"]),
                int(row["experts"]),
                tuple(int(n) for n in row["shape"]),
                int(row["nbytes"]),
                offset,
            )
            _check_entry(path, entry, start, len(data))
            entries[entry.name] = entry
        blob = entries.pop(TOKENIZER_BLOB)
        header = PackedHeader(
            config=dict(document["config"]),
            generation_config=dict(document["generation_config"]),
            tokenizer_config=dict(document["tokenizer_config"]),
            chat_template=document["chat_template"],
            source_hash=str(document["source_hash"]),
            weight_format=str(document["weight_format"]),
            sentence_files=dict(document.get("sentence_files", {})),
            info=dict(document["info"]),
            tokenizer_json=data[blob.offset : blob.offset + blob.nbytes].tobytes(),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PackedFileError(f"{path}: the header lacks or garbles a field: {error!r}") from error
    return header, entries


def _check_entry(path: Path, entry: PackedEntry, start: int, size: int) -> None:
    sizes = (entry.rows, entry.cols, entry.experts, entry.offset, entry.nbytes, *entry.shape)
    if entry.format in FORMATS:
        expected = linear_entry(entry.name, entry.format, entry.rows, entry.cols, entry.experts).nbytes
    elif entry.format == "vector":
        expected = vector_entry(entry.name, entry.shape).nbytes
    elif entry.format == "blob":
        expected = entry.nbytes
    else:
        raise PackedFileError(f"{path}: {entry.name!r} has unknown format {entry.format!r}")
    placed = start <= entry.offset <= size - entry.nbytes and entry.offset % _LINE == 0
    if min(sizes) < 0 or not placed or entry.nbytes != expected:
        raise PackedFileError(f"{path}: {entry.name!r} lies about its size or place: {entry}")
