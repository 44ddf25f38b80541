"""The packed file `*.glm`: a model's weights in run-time layout, with all that is needed to run it.

    bytes 0..127   magic, layout version, header size, total size, sha256 of the header, sha256 of the data
    header         JSON: config, source hash, tensor entries
    data           starts at a multiple of 4096; linear weights at multiples of 4096, vectors and blobs of 64

Opening checks magic, version, sizes, the header's checksum and every entry's bounds, and maps the file; the data is not
read (`verify` does that). Above: `models.loader`; `packed_writer` writes it. This module knows no checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glm_crush.errors import PackedFileError
from glm_crush.weights.packed_header import (
    PRELUDE_BYTES,
    PackedEntry,
    PackedHeader,
    linear_entry,
    read_header,
    stored_data_hash,
    vector_entry,
)
from glm_crush.weights.packed_size import FORMATS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    UInt8 = npt.NDArray[np.uint8]
    Float32 = npt.NDArray[np.float32]

__all__ = ["PackedEntry", "PackedFile", "PackedHeader", "PackedTensor", "linear_entry", "vector_entry"]


@dataclass(frozen=True)
class PackedTensor:
    """A packed linear weight in the map: uint8 `[nbytes]`, not copied, read-only."""

    name: str
    format: str
    rows: int
    cols: int
    experts: int
    data: UInt8


def _map(fd: int) -> mmap.mmap:
    """The file, read-only and shared. Every token streams through all of it, so 2 MB pages are worth asking for:
    measured 27 -> 31 GB/s where the file system keeps large folios (ext4 on Linux 6.18); elsewhere the hint is refused.
    """
    mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


class PackedFile:
    """An open packed file. Its arrays are views of the map and stay valid while any of them is referenced.

    Attributes:
        path: where it lies. header: what it says about itself. weight_bytes: bytes of its linear weights.
    """

    def __init__(self, path: Path, header: PackedHeader, entries: Mapping[str, PackedEntry], data: memoryview) -> None:
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
                data = memoryview(_map(file.fileno()))
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
        import numpy as np

        return self._view(entry).view(np.float32).reshape(entry.shape)

    @property
    def data_hash(self) -> bytes:
        """The sha256 that the file carries of its data: two files with the same one hold the same weights."""
        return stored_data_hash(self._data)[1]

    def verify(self) -> None:
        """Read all data and compare its checksum. Raises PackedFileError when it differs."""
        start, expected = stored_data_hash(self._data)
        if hashlib.sha256(self._data[start:]).digest() != expected:
            raise PackedFileError(f"{self.path}: the weights do not match their checksum; delete it to pack again")

    def _entry(self, name: str) -> PackedEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise PackedFileError(f"{self.path} has no tensor {name!r}; delete it to pack again")
        return entry

    def _view(self, entry: PackedEntry) -> UInt8:
        # Imported here: who only reads what a model is does without arrays.
        import numpy as np

        return np.frombuffer(self._data[entry.offset : entry.offset + entry.nbytes], np.uint8)
