"""Writes the ledger down: every quarter of a second, and once more before the server ends.

Above: `door.py`. Below: the stores. What the database did not take is kept and tried again, up to the ledger's size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from glm_crush.errors import GlmError
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.ledger import Ledger

if TYPE_CHECKING:
    from glm_crush.serving.gateway.account_store import AccountStore
    from glm_crush.serving.gateway.key_store import KeyStore

__all__ = ["Recorder"]

FLUSH_SECONDS = 0.25
_PRUNE_EVERY_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0

_log = logging.getLogger("glm_crush.serving")

MakeStores = Callable[[], Awaitable["tuple[KeyStore, AccountStore]"]]


class Recorder:
    """Makes rows of entries.

    Args:
        ledger, ring: hold what is to be written: requests and usage, and when keys were used.
        make_stores: opens the database, and makes one if there is none.
        audit_days: how long entries are kept; None = for ever.
        now: seconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger,
        ring: KeyRing,
        make_stores: MakeStores,
        *,
        audit_days: float | None,
        now: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._ring = ring
        self._make_stores = make_stores
        self._audit_days = audit_days
        self._now = now
        self._pruned_at = now()
        self._stopping = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="glm-recorder")

    async def close(self) -> None:
        """Write what is left. Raises StorageError when the database does not take it."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        await self.flush()

    async def flush(self) -> None:
        """Write what there is now. Raises StorageError; nothing is lost then."""
        async with self._writing:  # what another call has begun to write is written when this one returns
            await self._flush()

    async def _flush(self) -> None:
        entries, usage = self._ledger.drain()
        last_used = self._ring.drain_last_used()
        if not entries and not usage and not last_used:
            return
        try:
            keys, accounts = await self._make_stores()
            await accounts.write(entries, usage)
        except GlmError:
            self._ledger.put_back(entries, usage)
            raise
        await keys.touch(last_used)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            try:
                await self.flush()
                await self._prune()
            except GlmError as error:
                _log.error("the audit log cannot be written; it is kept in memory and tried again: %s", error)

    async def _prune(self) -> None:
        now = self._now()
        if self._audit_days is not None and now - self._pruned_at >= _PRUNE_EVERY_SECONDS:
            self._pruned_at = now
            _, accounts = await self._make_stores()
            await accounts.forget_before(now - self._audit_days * _DAY_SECONDS)
