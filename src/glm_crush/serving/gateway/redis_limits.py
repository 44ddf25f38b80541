"""Counters in Redis or Valkey, for several servers that share the limits of their keys.

Above: `admission.py`. Below: redis-py (the extra `redis`), `limit_scripts.py`. When Redis does not answer, keys with
limits are told to come back (503): a limit that nobody counts is none. Slots are leases that a server renews while it
lives, so that one that dies does not take them with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from glm_crush.errors import OverloadedError
from glm_crush.serving.gateway.limit_scripts import SETTLE, TAKE
from glm_crush.serving.gateway.limits import Charge, LimitReached, LimitState, shortfall

__all__ = ["RedisLimits"]

LEASE_SECONDS = 30.0
_TIMEOUT_SECONDS = 1.0
_KEPT_AFTER_WINDOW_SECONDS = 3600.0

_log = logging.getLogger("glm_crush.serving")


class RedisLimits:
    """A `LimitStore` on a Redis server.

    Args:
        url: `redis://host:port/db`, `rediss://` or `unix://`. Raises ValueError when it is none of these.
        spent: what an owner had used of a budget that Redis does not know: (owner, name, window) -> amount.
        lease_seconds: how long slots of a server that has died stay taken.
    """

    def __init__(
        self,
        url: str,
        spent: Callable[[str, str, str], int] = lambda _owner, _name, _window: 0,
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )
        self._take_script = self._redis.register_script(TAKE)
        self._settle_script = self._redis.register_script(SETTLE)
        self._spent = spent
        self._lease_seconds = lease_seconds
        self._leases: defaultdict[str, list[str]] = defaultdict(list)  # of each owner; one is as good as another
        self._ended: defaultdict[str, list[str]] = defaultdict(list)
        self._owed: dict[tuple[str, str, str], Charge] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._renewed_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def take(self, owner: str, charges: Sequence[Charge]) -> list[LimitState]:
        """See `LimitStore.take`."""
        self._ensure_running()
        lease = uuid.uuid4().hex
        arguments: list[Any] = []
        for charge in charges:
            arguments += [charge.kind, charge.limit, charge.cost, *self._extra(owner, charge, lease)]
        try:
            refused, *levels = await self._take_script(
                keys=[_name(owner, charge) for charge in charges], args=arguments
            )
        except RedisError as error:
            raise OverloadedError(
                f"limits cannot be counted: their Redis does not answer ({type(error).__name__}); try again later"
            ) from error
        if refused:
            charge, level = charges[refused - 1], float(levels[0])
            _, wait, state = shortfall(charge, level)
            raise LimitReached(charge, round(level), wait, state)
        if any(charge.kind == "slots" for charge in charges):
            self._leases[owner].append(lease)
        return [shortfall(charge, float(level))[2] for charge, level in zip(charges, levels, strict=True)]

    def settle(self, owner: str, charges: Sequence[Charge]) -> None:
        """See `LimitStore.settle`. What has to be corrected is added up and sent together."""
        for charge in charges:
            if charge.kind == "slots":
                self._ended[owner].append(self._leases[owner].pop())
            elif charge.cost:
                key = owner, charge.name, charge.window
                before = self._owed.get(key)
                self._owed[key] = charge if before is None else charge._replace(cost=before.cost + charge.cost)
        self._wake.set()

    async def close(self) -> None:
        """See `LimitStore.close`."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._redis.aclose()

    def _extra(self, owner: str, charge: Charge, lease: str) -> tuple[Any, Any]:
        if charge.kind == "budget":
            spent = self._spent(owner, charge.name, charge.window)
            return spent, charge.window_seconds + _KEPT_AFTER_WINDOW_SECONDS
        return (lease, self._lease_seconds) if charge.kind == "slots" else (0, 0)

    def _ensure_running(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="glm-redis-limits")

    async def _run(self) -> None:
        """Send corrections when there are some, and renew the leases in time."""
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._lease_seconds / 3)
            self._wake.clear()
            try:
                await self._send_corrections()
                await self._renew_leases()
            except RedisError as error:
                _log.error("limits cannot be corrected in Redis; tried again: %s", type(error).__name__)
                await asyncio.sleep(_TIMEOUT_SECONDS)
                self._wake.set()
        with contextlib.suppress(RedisError):  # leases end by themselves, and a refund lost is no limit lost
            await self._send_corrections()

    async def _send_corrections(self) -> None:
        while self._ended:
            owner, leases = next(iter(self._ended.items()))
            sent = len(leases)
            await self._redis.zrem(_slots_name(owner), *leases)
            del leases[:sent]
            if len(leases) == 0:
                del self._ended[owner]
        while self._owed:
            key, charge = next(iter(self._owed.items()))
            del self._owed[key]
            try:
                await self._settle_script(keys=[_name(key[0], charge)], args=[charge.kind, charge.limit, charge.cost])
            except RedisError:
                self.settle(key[0], [charge])
                raise

    async def _renew_leases(self) -> None:
        if time.monotonic() < self._renewed_at + self._lease_seconds / 4:
            return
        self._renewed_at = time.monotonic()
        seconds, microseconds = await self._redis.time()
        ends = seconds + microseconds / 1e6 + self._lease_seconds
        for owner, leases in list(self._leases.items()):
            if leases:
                name = _slots_name(owner)
                await self._redis.zadd(name, dict.fromkeys(leases, ends))
                await self._redis.expire(name, round(self._lease_seconds) + 1)
            else:
                del self._leases[owner]


def _name(owner: str, charge: Charge) -> str:
    """One owner's counters live on one node of a cluster."""
    return f"glm:limit:{{{owner}}}:{charge.name}:{charge.window}"


def _slots_name(owner: str) -> str:
    return f"glm:limit:{{{owner}}}:concurrency:"
