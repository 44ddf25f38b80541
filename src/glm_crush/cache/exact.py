"""The exact cache: the same question, word for word, gets the same answer without being computed again.

Above: `serving`, which makes keys and decides what may be kept. Below: memory, and behind it a store that outlives this
process or is shared. A memory hit touches neither a thread nor a socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from glm_crush.cache.memory import MemoryReplies
from glm_crush.cache.reply import CachedReply, ReplyStore
from glm_crush.errors import StorageError

__all__ = ["ExactCache", "canonical_key"]

_log = logging.getLogger(__name__)


def canonical_key(**parts: Any) -> str:
    """A key that is equal exactly for equal parts; the order of names within objects does not count."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ExactCache:
    """Memory before a store.

    A store that fails is not a reason to fail a request: the reply is computed, and the failure logged and counted.

    Args:
        memory: this process's replies. ttl_seconds: how long a reply is good.
        store: asked when memory has nothing, told what memory gets; None = memory alone.
        epoch_seconds: how long a shared epoch is believed before it is asked for again.
    """

    def __init__(
        self,
        memory: MemoryReplies,
        *,
        ttl_seconds: float,
        store: ReplyStore | None = None,
        epoch_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._epoch_seconds = epoch_seconds
        self._clock = clock
        self._epoch = 0
        self._epoch_checked_at = float("-inf")
        self._writes: set[asyncio.Task[None]] = set()
        self.num_store_failures = 0

    @property
    def memory(self) -> MemoryReplies:
        return self._memory

    async def epoch(self) -> int:
        """Part of every key: what was kept under an older one is not found any more."""
        if self._store is None:
            return await self._memory.epoch()
        now = self._clock()
        if now - self._epoch_checked_at >= self._epoch_seconds:
            self._epoch_checked_at = now
            try:
                self._epoch = await self._store.epoch()
            except StorageError as error:
                self._note_failure(error)
        return self._epoch

    async def find(self, key: str) -> CachedReply | None:
        """The reply of a key, from wherever it is nearest."""
        reply = self._memory.peek(key)
        if reply is not None or self._store is None:
            return reply
        try:
            reply = await self._store.get(key)
        except StorageError as error:
            self._note_failure(error)
            return None
        if reply is not None:
            self._memory.keep(key, reply)
        return reply

    def keep(self, key: str, content_type: str, body: bytes) -> CachedReply:
        """Keep a reply; the store is told in the background."""
        now = self._clock()
        reply = CachedReply(content_type, body, now, now + self._ttl_seconds)
        self._memory.keep(key, reply)
        if self._store is not None:
            task = asyncio.create_task(self._write(self._store, key, reply))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)
        return reply

    async def advance_epoch(self) -> int:
        """Forget everything, here at once and on servers that share the store within `epoch_seconds`.

        Raises:
            StorageError: the store did not take it; only this process has forgotten.
        """
        self._memory.clear()
        if self._store is None:
            return await self._memory.advance_epoch()
        self._epoch = await self._store.advance_epoch()
        self._epoch_checked_at = self._clock()
        return self._epoch

    async def close(self) -> None:
        """Finish writing, then let go of the store."""
        if self._writes:
            await asyncio.wait(self._writes)
        if self._store is not None:
            await self._store.close()

    async def _write(self, store: ReplyStore, key: str, reply: CachedReply) -> None:
        try:
            await store.put(key, reply)
        except StorageError as error:
            self._note_failure(error)

    def _note_failure(self, error: StorageError) -> None:
        self.num_store_failures += 1
        _log.warning("response cache: %s", error)
