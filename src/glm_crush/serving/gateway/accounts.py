"""Applications, keys, usage and audit log, as administrators change and read them, whatever protocol they use.

Above: `admin.py` (REST) and GraphQL. Below: the stores, opened with the first call. What is changed here holds in this
process when the call returns, and in every other within a poll.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glm_crush.errors import RecordNotFoundError
from glm_crush.serving.gateway.meter import MONEY_UNIT
from glm_crush.serving.gateway.records import Application, Key, KeyLimits

if TYPE_CHECKING:
    from glm_crush.serving.gateway.account_store import AccountStore
    from glm_crush.serving.gateway.build import GatewayPart
    from glm_crush.serving.gateway.key_store import KeyStore

__all__ = ["MOST_ROWS", "Accounts"]

MOST_ROWS = 1000  # of the audit log in one reply


class Accounts:
    """What administrators do. Its callers have checked that they may.

    Every method raises StorageError, and RecordNotFoundError where the server has no database.
    """

    def __init__(self, part: GatewayPart) -> None:
        self._part = part

    async def register(self, name: str) -> Application:
        """A new application. Raises InvalidParameterError."""
        return await (await self._keys()).register(name)

    async def applications(self) -> list[Application]:
        """All of them, oldest first."""
        return await (await self._keys()).applications()

    async def create_key(
        self,
        application: str,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
    ) -> tuple[Key, str]:
        """A new key of an application (name or id), and its secret. Raises as `KeyStore.create`."""
        key, secret = await (await self._keys()).create(
            application,
            name,
            scopes=("*",) if scopes is None else tuple(scopes),
            models=tuple(models or ()),
            limits=limits,
            expires_at=expires_at,
        )
        await self._part.keys_changed()
        return key, secret.text

    async def keys(self, application: str | None = None) -> list[Key]:
        """All keys, or those of one application (name or id). Raises RecordNotFoundError."""
        keys = await self._keys()
        return await keys.keys(None if application is None else (await keys.application(application)).id)

    async def key(self, key_id: str) -> Key:
        """One key. Raises RecordNotFoundError."""
        return await (await self._keys()).key(key_id)

    async def change_key(
        self,
        key_id: str,
        *,
        name: str | None = None,
        scopes: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
    ) -> Key:
        """Other rights or limits; None = as it is. Raises as `KeyStore.change`."""
        from glm_crush.serving.gateway.key_store import KeyChange

        wanted = KeyChange(
            name=name,
            scopes=None if scopes is None else tuple(scopes),
            models=None if models is None else tuple(models),
            limits=limits,
            expires_at=expires_at,
        )
        key = await (await self._keys()).change(key_id, wanted)
        await self._part.keys_changed()
        return key

    async def rotate_key(self, key_id: str, overlap_seconds: float) -> tuple[Key, str]:
        """A new secret; the older ones go on working for so long. Raises as `KeyStore.rotate`."""
        key, secret = await (await self._keys()).rotate(key_id, overlap_seconds)
        await self._part.keys_changed()
        return key, secret.text

    async def revoke_key(self, key_id: str) -> Key:
        """End a key now. Raises RecordNotFoundError."""
        key = await (await self._keys()).revoke(key_id)
        await self._part.keys_changed()
        return key

    async def usage(
        self, *, key_id: str | None = None, first_day: str | None = None, last_day: str | None = None
    ) -> list[dict[str, Any]]:
        """Tokens and money by key, model and day, the newest day first."""
        await self._part.write_records()
        _, accounts = await self._stores()
        rows = await accounts.usage(key_id=key_id, first_day=first_day or "", last_day=last_day or "9999")
        return [{**row, "money": row["money"] / MONEY_UNIT} for row in rows]

    async def audit(
        self, *, limit: int = 100, before: int | None = None, key_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Entries of the audit log, newest first; `before` is the id of the last one of the page before."""
        await self._part.write_records()
        _, accounts = await self._stores()
        return await accounts.audit(limit=limit, before=before, key_id=key_id)

    async def _keys(self) -> KeyStore:
        keys, _ = await self._stores()
        return keys

    async def _stores(self) -> tuple[KeyStore, AccountStore]:
        if self._part.stores is None:
            raise RecordNotFoundError("this server was started without a database; there are no keys but api.key")
        return await self._part.stores.make()
