"""The index of a prefix store on disk: one record for each block that was written or used, in that order.

A record is appended when its block lies in the data file, so what a killed process leaves is a record less, or half of
one at the end. Above: `block_store`. This module knows neither blocks nor when they are used.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DIGEST_BYTES", "ForeignJournalError", "Journal", "Record"]

DIGEST_BYTES = 32
_VERSION = 1
_MAGIC = b"GLMPREFX"
_HEADER = struct.Struct("<8sIQ32sI")  # magic, version, bytes of a block, identity, CRC of these
_RECORD = struct.Struct("<32s32sIII")  # digest, digest of the block before, place, CRC of the block, CRC of these
_CRC_BYTES = 4


class ForeignJournalError(Exception):
    """The file is not the index of this store; says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where a block lies.

    Attributes:
        digest: of its tokens and all before them. parent: of the block before; zeros for the first of a prompt.
        place: in the data file, counted in blocks. checksum: of its bytes.
    """

    digest: bytes
    parent: bytes
    place: int
    checksum: int


class Journal:
    """An index file.

    Args:
        path: of the file.
        identity: of what the blocks were computed by, 32 bytes.
        block_bytes: of one block.
    """

    def __init__(self, path: Path, identity: bytes, block_bytes: int) -> None:
        self.num_records = 0  # of those in the file
        self._path = path
        head = _HEADER.pack(_MAGIC, _VERSION, block_bytes, identity, 0)[:-_CRC_BYTES]
        self._header = head + zlib.crc32(head).to_bytes(_CRC_BYTES, "little")
        self._fd = -1

    def read(self) -> tuple[list[Record], int]:
        """All whole records, and how many bytes behind them were none; nothing where there is no file.

        Raises:
            ForeignJournalError: the file is of another version or store, or no index at all.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return [], 0
        if data[: len(self._header)] != self._header:
            kind = "of another version or model" if data.startswith(_MAGIC) else "no index of a prefix store"
            raise ForeignJournalError(f"{self._path} is {kind}")
        records = list(_whole_records(memoryview(data)[len(self._header) :]))
        self.num_records = len(records)
        return records, len(data) - len(self._header) - len(records) * _RECORD.size

    def rewrite(self, records: Iterable[Record]) -> None:
        """Put a file of these records in the place of the old one, at once; `append` goes on from there."""
        packed = [_pack(record) for record in records]
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, b"".join([self._header, *packed]))
            partial.replace(self._path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self.num_records = fd, len(packed)

    def append(self, records: Iterable[Record]) -> None:
        """Add records, with one write."""
        packed = [_pack(record) for record in records]
        write_all(self._fd, b"".join(packed))
        self.num_records += len(packed)

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_all(fd: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write everything, at the end or at an offset; raises OSError."""
    view = memoryview(data)
    while view.nbytes:
        written = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view, offset = view[written:], None if offset is None else offset + written


def _pack(record: Record) -> bytes:
    head = _RECORD.pack(record.digest, record.parent, record.place, record.checksum, 0)[:-_CRC_BYTES]
    return head + zlib.crc32(head).to_bytes(_CRC_BYTES, "little")


def _whole_records(data: memoryview) -> Iterator[Record]:
    """Up to the first that is torn or damaged: what stands behind it may be anything."""
    for start in range(0, len(data) - _RECORD.size + 1, _RECORD.size):
        digest, parent, place, checksum, crc = _RECORD.unpack_from(data, start)
        if crc != zlib.crc32(data[start : start + _RECORD.size - _CRC_BYTES]):
            return
        yield Record(digest, parent, place, checksum)
