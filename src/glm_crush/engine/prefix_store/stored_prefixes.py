"""Which cached blocks go into the prefix store, and which waiting requests get blocks from it.

A restored prefix becomes part of the prefix cache, idle, before its request is admitted: to the scheduler it looks as
if somebody had computed it. Runs in the engine's thread, between steps. Above: the engine. Below: prefix cache, block
pool, the store's thread. This module knows neither arrays nor files.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Protocol

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.prefix_cache import CachedBlock, Prefix, PrefixCache
from glm_crush.engine.prefix_store.block_load import BlockLoad
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import Scheduler

__all__ = ["Store", "StoredPrefixes"]

_NO_PARENT = bytes(32)
_WAIT_SECONDS = 0.02  # between two looks at what else has come, while nothing can be computed
_MAX_UNSAVED = 65536  # blocks that wait until the store can take them


class Store(Protocol):
    """Keeps blocks by digest; `StoreThread` is one."""

    @property
    def takes_blocks(self) -> bool:
        """Whether it keeps anything new."""

    def holds(self, digest: bytes) -> bool:
        """Whether a block can be loaded."""

    def save(self, digest: bytes, parent: bytes, block: int) -> bool:
        """Take a copy of a block; False when there is no room for it now."""

    def load(self, digests: Sequence[bytes], blocks: Sequence[int]) -> BlockLoad:
        """Begin to fill blocks."""

    def wait(self, load: BlockLoad, timeout_seconds: float) -> None:
        """Until a load is done, or so long."""

    def close(self) -> None:
        """Keep what was taken, and end."""


@dataclass(eq=False)
class _Restoration:
    """A prefix being restored.

    Attributes:
        request: for whom. prefix: where it goes on from. key: of its first block, see `PrefixCache.next_key`.
        table: blocks that are held meanwhile, those of `prefix` first.
    """

    request: Request
    prefix: Prefix
    key: tuple[int, bytes]
    token_ids: array[int]
    table: list[int]
    load: BlockLoad


class StoredPrefixes:
    """Keeps prefix cache and store in step.

    Args:
        store: closed by `close`.
        cache, pool: of the scheduler.
        metrics: of the engine.
    """

    def __init__(self, store: Store, cache: PrefixCache, pool: BlockPool, metrics: EngineMetrics) -> None:
        self.metrics = metrics
        self._store = store
        self._cache = cache
        self._pool = pool
        self._unsaved: deque[CachedBlock] = deque()
        self._restorations: list[_Restoration] = []
        if store.takes_blocks:
            cache.on_insert = self._unsaved.append

    def before_step(self, scheduler: Scheduler) -> None:
        """Let waiting requests have what has been loaded, and begin to load what the next ones could go on from."""
        for restoration in [each for each in self._restorations if each.load.done]:
            self._finish(restoration)
        room = scheduler.limits.max_num_seqs - len(scheduler.running)
        for request in islice(scheduler.waiting, room):
            if request.num_restored_tokens is None:
                self._restore(request, keep_free=len(scheduler.running))

    def after_step(self) -> None:
        """Hand over what the step has added to the cache, as far as the store can take it now."""
        while self._unsaved:
            node = self._unsaved[0]
            if not node.is_cached or not self._store.takes_blocks or len(self._unsaved) > _MAX_UNSAVED:
                self.metrics.prefix_store_drops += 1
            elif not self._store.save(node.digest, _digest(node.parent), node.block):
                return
            self._unsaved.popleft()

    def wait(self) -> None:
        """Nothing can be computed until something is loaded: wait for it, but look up now and then."""
        if self._restorations:
            self._store.wait(self._restorations[0].load, _WAIT_SECONDS)

    def close(self) -> None:
        """Save what can be; nothing is restored from here on."""
        self.after_step()
        self._store.close()
        for restoration in self._restorations[:]:
            self._finish(restoration)

    def _restore(self, request: Request, *, keep_free: int) -> None:
        """Begin to load what continues the cached prefix of a waiting request; later, if there are too few blocks."""
        cache, limit = self._cache, request.num_skippable_tokens
        cache.match(request.prefix, request.token_ids, limit)
        key = cache.next_key(request.prefix, request.token_ids, limit)
        if key is None or key in cache.being_restored:
            return
        digests = list(takewhile(self._store.holds, cache.next_digests(request.prefix, request.token_ids, limit)))
        if not digests:
            request.num_restored_tokens = 0
            return
        held = cache.blocks(request.prefix)
        num_missing = self._pool.num_blocks_for(request.num_tokens) - len(held)
        self._pool.share(held)
        blocks = self._pool.try_allocate(len(digests), keep_free=keep_free + num_missing - len(digests))
        if blocks is None:
            self._pool.release(held)
            return
        prefix = Prefix(request.prefix.salt)
        prefix.node = request.prefix.node
        request.num_restored_tokens = 0
        table = cache.being_restored[key] = held + blocks
        load = self._store.load(digests, blocks)
        self._restorations.append(_Restoration(request, prefix, key, request.token_ids[:], table, load))

    def _finish(self, restoration: _Restoration) -> None:
        """Put what was loaded into the cache, and let go of it."""
        self._restorations.remove(restoration)
        del self._cache.being_restored[restoration.key]
        prefix, load = restoration.prefix, restoration.load
        num_held = len(restoration.table) - len(load.blocks) + load.num_loaded
        self._pool.release(restoration.table[num_held:])
        table, num_tokens = restoration.table[:num_held], num_held * self._pool.block_size
        num_restored = num_tokens - prefix.length
        self._pool.release(self._cache.store(prefix, restoration.token_ids, table, num_tokens))
        restoration.request.num_restored_tokens = num_restored
        self.metrics.prefix_store_hits += num_restored


def _digest(node: CachedBlock | None) -> bytes:
    return _NO_PARENT if node is None else node.digest
