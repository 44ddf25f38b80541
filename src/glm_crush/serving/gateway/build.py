"""Puts the gateway together from settings, and runs its background work while the server does.

Above: `app.py`. Below: every part of the gateway. The database and Redis are opened when they are needed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from glm_crush.config import ApiSettings, GatewaySettings
from glm_crush.errors import ConfigError
from glm_crush.serving.gateway.accounts import Accounts
from glm_crush.serving.gateway.admin import admin_routes
from glm_crush.serving.gateway.books import Books
from glm_crush.serving.gateway.exposure import requires_keys
from glm_crush.serving.gateway.gateway import Gateway
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.key_watch import KeyWatch
from glm_crush.serving.gateway.limits import LimitStore, LocalLimits
from glm_crush.serving.gateway.live import adopt_settings, gateway_change
from glm_crush.serving.gateway.meter import Meter, Prices
from glm_crush.serving.gateway.recorder import Recorder
from glm_crush.serving.gateway.secrets import SecretHasher
from glm_crush.serving.part import ServerPart
from glm_crush.serving.reloading.change import LiveChange
from glm_crush.serving.routing import ApiRoute

if TYPE_CHECKING:
    from glm_crush.serving.gateway.account_store import AccountStore
    from glm_crush.serving.gateway.key_store import KeyStore
    from glm_crush.storage.lazy import LazyDatabase

__all__ = ["GatewayPart", "build_gateway"]


class GatewayPart(ServerPart):
    """A gateway with what runs beside it.

    Attributes:
        gateway: decides. stores: keys and records; None without a database. accounts: for administrators.
    """

    def __init__(
        self,
        gateway: Gateway,
        limits: LimitStore,
        stores: Stores | None = None,
        watch: KeyWatch | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.gateway = gateway
        self.stores = stores
        self.accounts = Accounts(self)
        self._limits = limits
        self._watch = watch
        self._recorder = recorder

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch keys and write records until the block ends; what is to be written then is written first."""
        if self._watch is not None:
            self._watch.start(at_once=self.gateway.requires_keys)
        if self._recorder is not None:
            self._recorder.start()
        try:
            yield
        finally:
            if self._watch is not None:
                await self._watch.close()
            await self._limits.close()
            if self._recorder is not None:
                await self._recorder.close()

    def routes(self) -> list[ApiRoute]:
        """See `ServerPart`: keys, usage and the audit log for administrators."""
        return admin_routes(self.accounts)

    def live_changes(self) -> list[LiveChange]:
        """See `ServerPart`."""
        return [gateway_change(self.gateway, keeps_records=self.stores is not None)]

    async def keys_changed(self) -> None:
        """Somebody changed keys through this process: they hold from now on. Raises StorageError."""
        if self._watch is not None:
            await self._watch.look()

    async def write_records(self) -> None:
        """What has been noted so far becomes rows. Raises StorageError."""
        if self._recorder is not None:
            await self._recorder.flush()


class Stores:
    """The stores of one database, opened once."""

    def __init__(self, database: LazyDatabase, hasher: SecretHasher) -> None:
        self._database = database
        self._hasher = hasher
        self._opened: tuple[KeyStore, AccountStore] | None = None

    async def make(self) -> tuple[KeyStore, AccountStore]:
        """Open them, making the database if there is none. Raises StorageError."""
        if self._opened is None:
            database = await self._database.open()
            from glm_crush.serving.gateway.account_store import AccountStore
            from glm_crush.serving.gateway.key_store import KeyStore

            keys, accounts = KeyStore(database, self._hasher), AccountStore(database)
            await keys.open()
            self._opened = keys, accounts
        return self._opened

    async def find(self) -> tuple[KeyStore, AccountStore] | None:
        """The same, but None if nobody has made a database yet. Raises StorageError."""
        if self._opened is None and not self._database.has_rows:
            return None
        return await self.make()


def build_gateway(api: ApiSettings, settings: GatewaySettings, database: LazyDatabase | None = None) -> GatewayPart:
    """The gateway that settings describe.

    Args:
        api: the operator's key and the address listened on.
        settings: all else.
        database: where keys and records are; None = there are no keys but `api.key`, and nothing is recorded.

    Raises:
        ConfigError: a setting that cannot be.
    """
    ring = KeyRing()
    hasher = SecretHasher(settings.hash_key)
    stores = None if database is None else Stores(database, hasher)
    watch = None
    if stores is not None:
        # Where keys are needed somebody has one: the database is opened in the background, before the first comes.
        watch = KeyWatch(ring, stores.make if requires_keys(api, settings) else stores.find, _month)
    limits = _limits(settings, (lambda _owner, _name, _window: 0) if watch is None else watch.spent)
    gateway = Gateway(Books(limits=limits, meter=Meter(Prices())), ring=ring, watch=watch, hasher=hasher)
    adopt_settings(gateway, api, settings, keeps_records=stores is not None)
    recorder = None
    if stores is not None:
        recorder = Recorder(gateway.books.ledger, ring, stores.make, audit_days=settings.audit_days, now=time.time)
    return GatewayPart(gateway, limits, stores, watch, recorder)


def _limits(settings: GatewaySettings, spent: Callable[[str, str, str], int]) -> LimitStore:
    if settings.redis_url is None:
        return LocalLimits(spent=spent)
    try:
        from glm_crush.serving.gateway.redis_limits import RedisLimits
    except ImportError as error:
        raise ConfigError(
            "gateway.redis_url is set and redis is not installed; pip install 'glm-crush[redis]'"
        ) from error
    try:
        return RedisLimits(settings.redis_url, spent)
    except ValueError as error:
        raise ConfigError(f"gateway.redis_url cannot be used: {error}") from error


def _month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"
