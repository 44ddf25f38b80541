"""Blocks on disk by digest: found after a restart, checked when read, the least recently used giving way.

The data file holds blocks one behind the other, in places of equal size; the journal says which block lies where. A
block counts from the moment its record is written, and a place that is written anew holds bytes that do not match the
record of the block before. So a process may be killed at any time. Above: the store's thread, which alone calls
everything but `holds`. Below: `journal`, `folder`.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm_crush.engine.prefix_store.folder import StoreFolder
from glm_crush.engine.prefix_store.journal import ForeignJournalError, Journal, Record, write_all
from glm_crush.errors import ConfigError

__all__ = ["BlockStore", "StoredBlock"]

_log = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

_CLAIMED_AT_ONCE = 64  # blocks of room that are asked for together
_RECORDS_PER_BLOCK = 4  # a journal with more is written anew
_SMALLEST_JOURNAL = 4096


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block to write: its digest, that of the block before, its bytes."""

    digest: bytes
    parent: bytes
    data: UInt8


class BlockStore:
    """The blocks of one model in one folder.

    Within its order of use a block comes behind all those that continue it: a prompt is evicted from its end.

    Args:
        folder: where; this store closes it.
        identity: what blocks depend on beside their tokens, 32 bytes.
        block_bytes: of one block.

    Raises:
        ConfigError: there is no room for a single block, or the files cannot be opened.
    """

    def __init__(self, folder: StoreFolder, identity: bytes, block_bytes: int) -> None:
        if folder.max_bytes < block_bytes:
            raise ConfigError(
                f"prefix_store_bytes is {folder.max_bytes}; a block of this model takes {block_bytes}: raise it"
            )
        self.num_evictions = 0
        self.num_damaged = 0
        self._folder = folder
        self._block_bytes = block_bytes
        self._journal = Journal(folder.path / "index", identity, block_bytes)
        self._records: OrderedDict[bytes, Record] = OrderedDict()  # the least recently used first
        self._free: list[int] = []  # places below `_num_places` that hold nothing
        self._num_places = 0
        self._num_claimed = 0  # places that the folder has room for, as far as it was asked
        self._is_full = False
        try:
            records, num_torn = self._read_journal()
            self._data = os.open(folder.path / "blocks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take(records, num_torn)
            if folder.is_writer:
                self._journal.rewrite(self._records.values())
        except OSError as error:
            folder.close()
            raise ConfigError(f"the prefix store {folder.path} cannot be opened: {error}") from error

    def __len__(self) -> int:
        return len(self._records)

    @property
    def num_bytes(self) -> int:
        """Of the blocks that can be found."""
        return len(self._records) * self._block_bytes

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of all blocks, the least recently used first."""
        return tuple(self._records)

    def holds(self, digest: bytes) -> bool:
        """Whether a block can be read, as far as is known without reading it. Any thread may ask."""
        return digest in self._records

    def read(self, digests: Sequence[bytes], out: UInt8) -> int:
        """Read blocks in order, as far as they are there and whole; those that are not are forgotten.

        Args:
            digests: of the blocks.
            out: written, `[at least len(digests), block_bytes]`.

        Returns: how many of the first are in `out`.
        """
        records = []
        for digest in digests:
            record = self._records.get(digest)
            if record is None:
                break
            records.append(record)
        done = 0
        while done < len(records):
            run = 1
            while done + run < len(records) and records[done + run].place == records[done].place + run:
                run += 1
            self._read_run(records[done].place, out[done : done + run])
            for record, row in zip(records[done : done + run], out[done : done + run], strict=True):
                if _checksum(record.digest, row) != record.checksum:
                    self._forget(record)
                    return done
                done += 1
        return done

    def write(self, blocks: Sequence[StoredBlock]) -> int:
        """Keep blocks, each behind the one that it continues; returns how many were new.

        Raises:
            OSError: the disk is full or gone.
        """
        new = [block for block in blocks if block.digest not in self._records]
        self._move_to_end([digest for block in blocks for digest in (block.digest, block.parent)])
        written = []
        for block in new:
            place = self._free_place()
            write_all(self._data, block.data.data, place * self._block_bytes)
            record = Record(block.digest, block.parent, place, _checksum(block.digest, block.data))
            self._records[block.digest] = record
            written.append(record)
        self._journal.append(written)
        self._move_to_end([block.digest for block in blocks])
        self._shorten_journal()
        return len(new)

    def touch(self, digests: Sequence[bytes]) -> None:
        """Note that blocks were used."""
        self._move_to_end(digests)
        if self._folder.is_writer:
            self._journal.append(self._records[digest] for digest in digests if digest in self._records)
            self._shorten_journal()

    def close(self) -> None:
        """Give back files and lock."""
        self._journal.close()
        os.close(self._data)
        self._folder.close()

    def _read_journal(self) -> tuple[list[Record], int]:
        try:
            return self._journal.read()
        except ForeignJournalError as error:
            _log.warning("%s; removed with its blocks", error)
            if self._folder.is_writer:
                (self._folder.path / "blocks").unlink(missing_ok=True)
            return [], 0

    def _take(self, records: Sequence[Record], num_torn: int) -> None:
        """Believe the journal, as far as the data file reaches."""
        size = os.fstat(self._data).st_size
        limit = self._folder.max_bytes if self._folder.is_writer else size
        num_whole = min(size, limit) // self._block_bytes
        valid = _last_of_each_place(records)
        kept = [record for record in valid if record.place < num_whole]
        num_lost = len(valid) - len(kept)
        if num_torn or num_lost:
            _log.warning(
                "the prefix store %s was cut off: %d bytes of its index and %d blocks are removed",
                self._folder.path,
                num_torn,
                num_lost,
            )
        self._records.update((record.digest, record) for record in _by_use(kept))
        if self._folder.is_writer:
            self._num_places = self._num_claimed = num_whole
            os.ftruncate(self._data, num_whole * self._block_bytes)
            self._free = sorted(set(range(num_whole)) - {record.place for record in kept}, reverse=True)

    def _read_run(self, place: int, out: UInt8) -> None:
        """Read blocks that lie one behind the other; where the file ends early, the rest matches no checksum."""
        view, offset = out.reshape(-1).data, place * self._block_bytes
        try:
            while view.nbytes:
                count = os.preadv(self._data, [view], offset)
                if count == 0:
                    break
                view, offset = view[count:], offset + count
        except OSError as error:
            _log.warning("the prefix store %s cannot be read: %s", self._folder.path, error)
        view[:] = bytes(view.nbytes)

    def _free_place(self) -> int:
        if self._free:
            return self._free.pop()
        if self._num_places == self._num_claimed and not self._is_full:
            self._num_claimed += self._claim()
            self._is_full = self._num_places == self._num_claimed
        if self._num_places < self._num_claimed:
            self._num_places += 1
            return self._num_places - 1
        _, oldest = self._records.popitem(last=False)
        self.num_evictions += 1
        return oldest.place

    def _claim(self) -> int:
        for count in (_CLAIMED_AT_ONCE, 1):
            if self._folder.has_room((self._num_places + count) * self._block_bytes):
                return count
        return 0 if self._records else 1

    def _forget(self, record: Record) -> None:
        """A block whose bytes are not what was written: a process was killed, or somebody has changed the file."""
        self.num_damaged += 1
        del self._records[record.digest]
        if self._folder.is_writer:
            self._free.append(record.place)
        _log.warning("the prefix store %s: the block at place %d is damaged; removed", self._folder.path, record.place)

    def _move_to_end(self, digests: Sequence[bytes]) -> None:
        """Blocks were used, and with them all that they continue."""
        moved: set[bytes] = set()
        for digest in reversed(digests):
            while digest in self._records and digest not in moved:
                moved.add(digest)
                self._records.move_to_end(digest)
                digest = self._records[digest].parent

    def _shorten_journal(self) -> None:
        if self._journal.num_records > max(_SMALLEST_JOURNAL, _RECORDS_PER_BLOCK * len(self._records)):
            self._journal.rewrite(self._records.values())


def _last_of_each_place(records: Sequence[Record]) -> list[Record]:
    """Those that nothing later contradicts, in the order of their last use."""
    places: set[int] = set()
    digests: set[bytes] = set()
    newest_first = []
    for record in reversed(records):
        if record.place not in places and record.digest not in digests:
            newest_first.append(record)
        places.add(record.place)
        digests.add(record.digest)
    return newest_first[::-1]


def _by_use(records: Sequence[Record]) -> list[Record]:
    """The least recently used first, given in the order of their own last use: with a block all before it are used."""
    by_digest = {record.digest: record for record in records}
    placed: set[bytes] = set()
    newest_first: list[Record] = []
    for record in reversed(records):
        line: list[Record] = []
        ancestor: Record | None = record
        while ancestor is not None and ancestor.digest not in placed:
            placed.add(ancestor.digest)
            line.append(ancestor)
            ancestor = by_digest.get(ancestor.parent)
        newest_first += reversed(line)
    return newest_first[::-1]


def _checksum(digest: bytes, data: UInt8) -> int:
    """Of the bytes as those of this block: another block's do not match."""
    return zlib.crc32(data.data, zlib.crc32(digest))
