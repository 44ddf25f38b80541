"""Keeps the ring of keys as the database has it, and says what keys had spent.

Above: `gateway.py`. Below: `key_store.py`, opened when there is a database to open. Revoking a key in one process ends
it in every other within a poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from glm_crush.errors import GlmError, StorageError
from glm_crush.serving.gateway.key_ring import KeyRing

if TYPE_CHECKING:
    from glm_crush.serving.gateway.account_store import AccountStore, Spent
    from glm_crush.serving.gateway.key_store import KeyStore

__all__ = ["KeyWatch"]

POLL_SECONDS = 0.5
_SOONEST_REFRESH_SECONDS = 0.1

_log = logging.getLogger("glm_crush.serving")

# The stores once there is a database; None while nobody has ever made one.
OpenStores = Callable[[], Awaitable["tuple[KeyStore, AccountStore] | None"]]


class KeyWatch:
    """Renews a ring when the revision in the database is another.

    Args:
        ring: what to renew.
        open_stores: see above; called again while it returns None.
        month: today's month in UTC, such as 2026-11.
        poll_seconds: pause between two looks.
    """

    def __init__(
        self, ring: KeyRing, open_stores: OpenStores, month: Callable[[], str], *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._ring = ring
        self._open_stores = open_stores
        self._month = month
        self._poll_seconds = poll_seconds
        self._revision = 0
        self._spent: Spent | None = None
        self._lock = asyncio.Lock()
        self._looked_at = -_SOONEST_REFRESH_SECONDS
        self._is_loaded = False
        self._task: asyncio.Task[None] | None = None

    def start(self, *, at_once: bool) -> None:
        """Look after every pause, and now if `at_once`: where nobody needs a key, opening a database can wait."""
        self._task = asyncio.create_task(self._poll(at_once=at_once), name="glm-key-watch")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def spent(self, owner: str, name: str, window: str) -> int:
        """What a key had used of a budget when it was last looked up."""
        return 0 if self._spent is None else self._spent.amount(owner, name, window)

    async def refresh(self) -> None:
        """Make sure that the ring is not older than this call.

        A key that another process made a moment ago works at once. Whoever guesses causes ten looks a second and waits.

        Raises:
            StorageError: keys have never been read, so that nobody can say whether one is right.
        """
        called_at = time.monotonic()
        if self._is_loaded:
            await asyncio.sleep(max(0.0, self._looked_at + _SOONEST_REFRESH_SECONDS - called_at))
        try:
            await self.look(unless_since=called_at)
        except GlmError as error:
            if not self._is_loaded:
                raise StorageError(f"keys cannot be checked: {error}") from error
            _log.error("keys cannot be looked up; those known go on working: %s", error)

    async def look(self, *, unless_since: float = float("inf")) -> None:
        """Look now, unless somebody did since a time. Raises StorageError."""
        async with self._lock:
            if self._is_loaded and self._looked_at > unless_since:
                return
            self._looked_at = time.monotonic()
            stores = await self._open_stores()
            if stores is not None:
                keys, accounts = stores
                if not self._is_loaded or await keys.revision() != self._revision:
                    snapshot = await keys.snapshot()
                    self._spent = await accounts.spent(self._month())
                    self._ring.replace(snapshot.keys)
                    self._revision = snapshot.revision
            self._is_loaded = True

    async def _poll(self, *, at_once: bool) -> None:
        if not at_once:
            await asyncio.sleep(self._poll_seconds)
        while True:
            try:
                await self.look()
            except GlmError as error:
                _log.error("keys cannot be looked up; those known go on working: %s", error)
            await asyncio.sleep(self._poll_seconds)
