"""The keys in memory: from a secret's hash to what it may do, in one look-up.

Above: `gateway.py`, for every request. Below: a snapshot that `key_watch.py` renews when another process changed keys.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from glm_crush.serving.gateway.records import Grant, Key, KeyLimits, Secret

__all__ = ["KeyRing"]


@dataclass(frozen=True, slots=True)
class _Entry:
    grant: Grant
    key: Key
    secret: Secret
    not_after: float


class KeyRing:
    """Every key that is not revoked. Used in the event loop only."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._default_limits = KeyLimits()
        self._entries: dict[bytes, _Entry] = {}
        self._last_used: dict[bytes, float] = {}

    def replace(self, keys: Iterable[Key]) -> None:
        """Hold these keys and no others."""
        self._keys = [key for key in keys if key.revoked_at is None]
        self._entries = self._made_entries()

    def set_default_limits(self, limits: KeyLimits) -> None:
        """What holds for keys that set no such limit of their own."""
        self._default_limits = limits
        self._entries = self._made_entries()

    def _made_entries(self) -> dict[bytes, _Entry]:
        entries = {}
        for key in self._keys:
            limits = key.limits.or_else(self._default_limits)
            grant = Grant(
                key_id=key.id,
                tenant=key.application_id,
                scopes=frozenset(key.scopes),
                models=key.models,
                limits=None if limits.is_unlimited else limits,
            )
            for secret in key.secrets:
                ends = [time for time in (key.expires_at, secret.expires_at) if time is not None]
                entries[secret.digest] = _Entry(grant, key, secret, min(ends, default=float("inf")))
        return entries

    def find(self, digest: bytes, now: float) -> tuple[Grant | None, bool]:
        """What a secret may do, and whether it is a known one that has expired.

        Finding a digest in a table takes as long whatever the rest of the wrong secret: an attacker cannot choose the
        digests of guesses. The comparison at the end is constant in time all the same.
        """
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.secret.digest, digest):
            return None, False
        if now >= entry.not_after:
            return None, True
        self._last_used[digest] = now
        return entry.grant, False

    def grant_of(self, key_id: str, now: float) -> Grant | None:
        """What a key may do, for work that it left behind; None when it is revoked or expired."""
        for entry in self._entries.values():
            if entry.key.id == key_id and now < entry.not_after:
                return entry.grant
        return None

    def __len__(self) -> int:
        """Number of secrets."""
        return len(self._entries)

    def drain_last_used(self) -> dict[bytes, float]:
        """When which secrets were used since the last call."""
        used, self._last_used = self._last_used, {}
        return used
