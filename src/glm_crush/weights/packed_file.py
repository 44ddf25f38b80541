"""The packed file `*.glm`: a model's weights in run-time layout, with all that is needed to run it.

    bytes 0..127   magic, layout version, header size, total size, sha256 of the header, sha256 of the data
    header         JSON: config, source hash, tensor entries
    data           starts at a multiple of 4096; linear weights at multiples of 4096, vectors and blobs of 64

Opening checks magic, version, sizes, the header's checksum and every entry's bounds, and maps the file; the data is not
read (`verify` does that). Above: `weights.pack` writes, `models.loader` opens. This module knows no checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.errors import PackedFileError
from glm_crush.weights.atomic_file import AtomicFile
from glm_crush.weights.layout import FORMATS
from glm_crush.weights.packed_header import (
    PRELUDE_BYTES,
    TOKENIZER_BLOB,
    PackedEntry,
    PackedHeader,
    data_start,
    encode_header,
    encode_prelude,
    linear_entry,
    read_header,
    stored_data_hash,
    vector_entry,
)

__all__ = ["PackedEntry", "PackedFile", "PackedHeader", "PackedTensor", "linear_entry", "vector_entry", "write_packed"]

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Chunk = tuple[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PackedTensor:
    """A packed linear weight in the map: uint8 `[nbytes]`, not copied, read-only."""

    name: str
    format: str
    rows: int
    cols: int
    experts: int
    data: UInt8


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


def _map(fd: int) -> mmap.mmap:
    """The file, read-only and shared. Every token streams through all of it, so 2 MB pages are worth asking for:
    measured 27 -> 31 GB/s where the file system keeps large folios (ext4 on Linux 6.18); elsewhere the hint is refused.
    """
    mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


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


class PackedFile:
    """An open packed file. Its arrays are views of the map and stay valid while any of them is referenced.

    Attributes:
        path: where it lies. header: what it says about itself. weight_bytes: bytes of its linear weights.
    """

    def __init__(self, path: Path, header: PackedHeader, entries: Mapping[str, PackedEntry], data: UInt8) -> None:
        self.path = path
        self.header = header
        self._entries = entries
        self._data = data
        self.weight_bytes = sum(e.nbytes for e in entries.values() if e.format in FORMATS)

    @classmethod
    def open(cls, path: str | Path, *, source_hash: str | None = None) -> PackedFile:
        """Map a packed file and check everything but its data.

        Args:
            path: the file.
            source_hash: hash of the checkpoint it must have been made from, or None to accept any.

        Raises:
            PackedFileError: it is missing, foreign, of another layout version, truncated, damaged or stale.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < PRELUDE_BYTES:
                    raise PackedFileError(f"{path} has {size} bytes, less than a header; it is truncated: delete it")
                data = np.frombuffer(_map(file.fileno()), np.uint8)
        except OSError as error:
            raise PackedFileError(f"{path} cannot be opened: {error}") from error
        header, entries = read_header(path, data)
        if source_hash is not None and header.source_hash != source_hash:
            raise PackedFileError(
                f"{path} is stale: it was packed from source {header.source_hash[:12]}, "
                f"the checkpoint is now {source_hash[:12]}; delete it to pack again"
            )
        return cls(path, header, entries, data)

    def names(self) -> tuple[str, ...]:
        """Names of the linear weights and vectors, in file order."""
        return tuple(self._entries)

    def entries(self) -> tuple[PackedEntry, ...]:
        """The tensors in file order, without their data."""
        return tuple(self._entries.values())

    def weight_formats(self) -> frozenset[str]:
        """The formats its linear weights have."""
        return frozenset(entry.format for entry in self._entries.values() if entry.format in FORMATS)

    def tensor(self, name: str) -> PackedTensor:
        """A packed linear weight. Raises PackedFileError when there is none of that name."""
        entry = self._entry(name)
        if entry.format not in FORMATS:
            raise PackedFileError(f"{self.path}: {name!r} is a {entry.format}, not a linear weight")
        return PackedTensor(name, entry.format, entry.rows, entry.cols, entry.experts, self._view(entry))

    def vector(self, name: str) -> Float32:
        """A float32 array of its shape. Raises PackedFileError when there is none of that name."""
        entry = self._entry(name)
        if entry.format != "vector":
            raise PackedFileError(f"{self.path}: {name!r} is packed as {entry.format}, not a vector")
        return self._view(entry).view(np.float32).reshape(entry.shape)

    @property
    def data_hash(self) -> bytes:
        """The sha256 that the file carries of its data: two files with the same one hold the same weights."""
        return stored_data_hash(self._data)[1]

    def verify(self) -> None:
        """Read all data and compare its checksum. Raises PackedFileError when it differs."""
        start, expected = stored_data_hash(self._data)
        if hashlib.sha256(self._data[start:].data).digest() != expected:
            raise PackedFileError(f"{self.path}: the weights do not match their checksum; delete it to pack again")

    def _entry(self, name: str) -> PackedEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise PackedFileError(f"{self.path} has no tensor {name!r}; delete it to pack again")
        return entry

    def _view(self, entry: PackedEntry) -> UInt8:
        return self._data[entry.offset : entry.offset + entry.nbytes]
