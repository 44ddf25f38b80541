"""The keys in the database of this installation, whether a server runs or not.

Above: `glm keys`, the operator's key. Below: the key store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from glm_crush.config import Settings
    from glm_crush.serving.gateway.key_store import KeyStore

__all__ = ["with_key_store"]

Result = TypeVar("Result")


def with_key_store(settings: Settings, work: Callable[[KeyStore], Awaitable[Result]]) -> Result:
    """Run work on the installation's keys. Raises StorageError."""
    from glm_crush.serving.gateway.secrets import SecretHasher
    from glm_crush.storage.lazy import LazyDatabase

    async def run() -> Result:
        from glm_crush.serving.gateway.key_store import KeyStore

        database = LazyDatabase(settings.storage, settings.store.home)
        try:
            store = KeyStore(await database.open(), SecretHasher(settings.gateway.hash_key))
            await store.open()
            return await work(store)
        finally:
            await database.close()

    return asyncio.run(run())
