"""Writes packed files, tensor by tensor; see `packed_file` for what is in them.

Above: `weights.pack`. This module knows no checkpoints.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.weights.atomic_file import AtomicFile
from glm_crush.weights.packed_header import (
    PRELUDE_BYTES,
    TOKENIZER_BLOB,
    PackedEntry,
    PackedHeader,
    data_start,
    encode_header,
    encode_prelude,
)

__all__ = ["write_packed"]

Chunk = tuple[str, npt.NDArray[Any]]


def write_packed(path: Path, header: PackedHeader, entries: Sequence[PackedEntry], data: Iterable[Chunk]) -> None:
    """Write a packed file; it appears under `path` whole or not at all.

    Args:
        path: the file; an older one is replaced.
        header: what it says about itself.
        entries: its tensors, in order.
        data: chunks `(tensor name, array)` in the order of the entries; a tensor may come in several chunks.

    Raises:
        PackedFileError: the disk has too little room, or cannot be written.
    """
    tokenizer = np.frombuffer(header.tokenizer_json, np.uint8)
    blob = PackedEntry(TOKENIZER_BLOB, "blob", 0, 0, 0, (), tokenizer.nbytes)
    placed, header_json, total = encode_header(header, [blob, *entries])
    chunks = itertools.chain([(TOKENIZER_BLOB, tokenizer)] if tokenizer.size else [], data)
    data_hash = hashlib.sha256()
    with AtomicFile(path, total) as file:
        position = data_start(len(header_json))
        file.write((bytes(PRELUDE_BYTES) + header_json).ljust(position, b"\0"))
        for entry in placed:
            for piece in _entry_bytes(entry, position, chunks):
                file.write(piece)
                data_hash.update(piece)
            position = entry.offset + entry.nbytes
        file.seek(0)
        file.write(encode_prelude(header_json, total, data_hash.digest()))


def _entry_bytes(entry: PackedEntry, position: int, chunks: Iterator[Chunk]) -> Iterator[memoryview | bytes]:
    """The zero padding before an entry, then its chunks; asserts that they are its own and fill it exactly."""
    yield bytes(entry.offset - position)
    missing = entry.nbytes
    while missing > 0:
        name, array = next(chunks, ("the end", np.empty(0)))
        assert name == entry.name, f"{name!r} came where data of {entry.name!r} was due"
        missing -= array.nbytes
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    assert missing == 0, f"{entry.name!r} got {-missing} bytes too many"
