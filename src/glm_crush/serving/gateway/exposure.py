"""Who can reach the server, and whether that is safe.

Above: `glm serve` and `build.py`. Below: settings, and for keys the database.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

from glm_crush.errors import ConfigError

if TYPE_CHECKING:
    from glm_crush.config import ApiSettings, Settings
    from glm_crush.gateway_settings import GatewaySettings

__all__ = ["check_exposure", "is_loopback", "requires_keys"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def requires_keys(api: ApiSettings, gateway: GatewaySettings) -> bool:
    """Whether callers need a key: those behind a proxy come from elsewhere, wherever the proxy is."""
    return gateway.require_keys or gateway.trusted_proxies is not None or not is_loopback(api.host)


def check_exposure(settings: Settings) -> None:
    """Refuse to serve when keys are needed and nobody has one.

    Raises:
        ConfigError: there is neither `api.key` nor a key in the database.
    """
    if settings.api.key is not None or not requires_keys(settings.api, settings.gateway):
        return
    if asyncio.run(_has_keys(settings)):
        return
    raise ConfigError(
        f"a server on {settings.api.host} with these settings needs keys, and nobody has one; "
        "make one with `glm keys create NAME`, give --api-key KEY (or GLM_API_KEY), or listen on 127.0.0.1"
    )


async def _has_keys(settings: Settings) -> bool:
    from glm_crush.storage.lazy import LazyDatabase

    database = LazyDatabase(settings.storage, settings.store.home)
    if not database.has_rows:
        return False
    from glm_crush.serving.gateway.key_store import KeyStore

    try:
        store = KeyStore(await database.open())
        await store.open()
        return any(key.revoked_at is None for key in await store.keys())
    finally:
        await database.close()
