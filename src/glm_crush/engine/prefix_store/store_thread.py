"""The store's own thread: blocks go to disk and come back beside the steps of the engine.

The engine's thread copies a block into a bounded stage and goes on; where the stage is full, the block is not taken.
What is asked for comes before what is to be written. Above: `stored_prefixes`. Below: `block_store`, which only this
thread touches, and the executor's cache, of which it fills blocks that nobody uses yet.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.prefix_store.block_load import BlockLoad
from glm_crush.engine.prefix_store.block_store import BlockStore, StoredBlock

__all__ = ["BlockMemory", "StoreThread"]

_log = logging.getLogger(__name__)

UInt8 = npt.NDArray[np.uint8]

_STAGE_BYTES = 64 * 2**20
_READ_BYTES = 8 * 2**20  # at a time: large enough for the disk, small enough for the processor's cache
_WRITTEN_AT_ONCE = 32  # blocks; who waits for a load waits for these first


class BlockMemory(Protocol):
    """The executor, as far as it lends its cache."""

    @property
    def block_bytes(self) -> int:
        """Of one block."""

    @property
    def numerics(self) -> str:
        """What decides the bits of keys and values beside program, weights and type of the cache."""

    def read_blocks(self, blocks: npt.NDArray[np.int32], out: UInt8) -> None:
        """Copy blocks out of the cache."""

    def write_blocks(self, blocks: npt.NDArray[np.int32], data: UInt8) -> None:
        """Copy blocks into the cache."""


class StoreThread:
    """Reads and writes until `close`.

    Args:
        store: closed by this.
        memory: where blocks come from and go to.
        metrics: told what is written and lost.
        is_writer: whether blocks are written, or only read.
        stage_bytes: of blocks that wait to be written.
    """

    def __init__(
        self,
        store: BlockStore,
        memory: BlockMemory,
        metrics: EngineMetrics,
        *,
        is_writer: bool = True,
        stage_bytes: int = _STAGE_BYTES,
    ) -> None:
        block_bytes = memory.block_bytes
        self._store = store
        self._is_writer = is_writer
        self._memory = memory
        self._metrics = metrics
        self._stage = np.empty((max(1, stage_bytes // block_bytes), block_bytes), np.uint8)
        self._buffer = np.empty((max(1, _READ_BYTES // block_bytes), block_bytes), np.uint8)
        self._condition = threading.Condition()  # guards the next six
        self._places = list(range(len(self._stage) - 1, -1, -1)) if is_writer else []
        self._staged: deque[tuple[StoredBlock, int]] = deque()
        self._saving: set[bytes] = set()
        self._loads: deque[BlockLoad] = deque()
        self._closing = False
        self._failed = False
        self._count()
        self._thread = threading.Thread(target=self._run, name="glm-prefix-store", daemon=True)
        self._thread.start()

    def holds(self, digest: bytes) -> bool:
        """Whether a block can be loaded."""
        return self._store.holds(digest) and not self._failed

    @property
    def takes_blocks(self) -> bool:
        """Whether blocks are written at all."""
        return self._is_writer and not self._failed

    def save(self, digest: bytes, parent: bytes, block: int) -> bool:
        """Take a copy of a cached block, to be written unless it is known; False when there is no room for it now."""
        with self._condition:
            if self._store.holds(digest) or digest in self._saving:
                return True
            if not self._places:
                return False
            place = self._places.pop()
        row = self._stage[place]
        self._memory.read_blocks(np.array([block], np.int32), row[None])
        with self._condition:
            self._saving.add(digest)
            self._staged.append((StoredBlock(digest, parent, row), place))
            self._condition.notify_all()
        return True

    def load(self, digests: Sequence[bytes], blocks: Sequence[int]) -> BlockLoad:
        """Begin to fill blocks, which nobody uses until the load is done."""
        load = BlockLoad(digests, blocks)
        with self._condition:
            if self._failed or self._closing:
                load.done = True
            else:
                self._loads.append(load)
                self._condition.notify_all()
        return load

    def wait(self, load: BlockLoad, timeout_seconds: float) -> None:
        """Until a load is done, or so long."""
        with self._condition:
            self._condition.wait_for(lambda: load.done, timeout_seconds)

    def close(self) -> None:
        """Write what was taken, then end; a second call does nothing."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._do_next():
                self._count()
        except Exception as error:  # noqa: BLE001 - the engine goes on without a store; whoever waits is told
            _log.error("the prefix store stopped", exc_info=error)
        with self._condition:
            self._failed = True
            self._metrics.prefix_store_drops += len(self._staged)
            self._staged.clear()
            for load in self._loads:
                load.done = True
            self._loads.clear()
            self._condition.notify_all()
        self._store.close()

    def _do_next(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: self._loads or self._staged or self._closing)
            load = self._loads.popleft() if self._loads and not self._closing else None
            if load is None and not self._staged:
                return False
            batch = [] if load else [self._staged.popleft() for _ in range(min(_WRITTEN_AT_ONCE, len(self._staged)))]
        if load is not None:
            try:
                self._load(load)
            finally:
                with self._condition:
                    load.done = True
                    self._condition.notify_all()
            return True
        self._metrics.prefix_store_writes += self._store.write([block for block, _ in batch])
        with self._condition:
            self._saving.difference_update(block.digest for block, _ in batch)
            self._places += [place for _, place in batch]
        return True

    def _load(self, load: BlockLoad) -> None:
        size = len(self._buffer)
        for first in range(0, len(load.digests), size):
            digests, blocks = load.digests[first : first + size], load.blocks[first : first + size]
            count = self._store.read(digests, self._buffer)
            self._memory.write_blocks(np.array(blocks[:count], np.int32), self._buffer[:count])
            load.num_loaded += count
            if count < len(digests):
                break
        self._store.touch(load.digests[: load.num_loaded])

    def _count(self) -> None:
        self._metrics.prefix_store_bytes = self._store.num_bytes
        self._metrics.prefix_store_evictions = self._store.num_evictions
        self._metrics.prefix_store_damaged = self._store.num_damaged
