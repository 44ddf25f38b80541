"""What the gateway knows of applications and keys; nothing here is secret.

An application is whoever uses the server: its id is the tenant of everything that it asks for and stores. A key belongs
to one application and says what it may do. A key has one or more secrets: rotation adds one and lets the older ones run
out, so that limits, budgets and usage, which belong to the key, go on across it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase

__all__ = ["Application", "Grant", "Key", "KeyLimits", "Secret"]


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """How much a key may use; None = no limit. Money is in the unit of the configured prices.

    Attributes:
        concurrency: requests under way at the same time. tokens_per_day, tokens_per_month, money_per_day,
            money_per_month: of calendar days and months in UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: float | None = None
    money_per_month: float | None = None

    @property
    def is_unlimited(self) -> bool:
        return all(getattr(self, spec.name) is None for spec in fields(self))

    def or_else(self, other: KeyLimits) -> KeyLimits:
        """These, and of those that are not set the other's."""
        own = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return replace(other, **{name: limit for name, limit in own.items() if limit is not None})


@dataclass(frozen=True, kw_only=True)
class Application:
    """Whoever uses the server."""

    id: str
    name: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret of a key, as far as it may be known: its public part and its times (seconds since 1970)."""

    prefix: str
    digest: bytes = field(repr=False)
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Key:
    """What one key may do.

    Attributes:
        application_id: whose it is. scopes: groups of routes (see `scopes.py`). models: patterns of model names such as
            `glm-*`; empty = all. expires_at, revoked_at: seconds since 1970.
    """

    id: str
    application_id: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] = ()
    limits: KeyLimits = field(default_factory=KeyLimits)
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What an accepted credential may do: the part of a key that every request needs.

    Attributes:
        key_id: None for callers without a key. tenant: the application's id; requests of different tenants
            do not share what must not be shared. scopes: `*` is every group but `admin`.
    """

    key_id: str | None
    tenant: str
    scopes: frozenset[str]
    models: Sequence[str] = ()
    limits: KeyLimits | None = None

    def allows_scope(self, scope: str) -> bool:
        """Whether routes of a group are open to it."""
        return scope in self.scopes or ("*" in self.scopes and scope != "admin")

    def allows_model(self, name: str) -> bool:
        """Whether a model is."""
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)
