"""Applications, keys, usage and the audit log; for keys with the scope admin.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from glm_crush.client.call import Call, given, place, read_as, read_rows
from glm_crush.client.result import Result

__all__ = [
    "Application",
    "AuditEntry",
    "Key",
    "KeyLimits",
    "UsageRow",
    "applications",
    "audit",
    "change_key",
    "create_key",
    "get_key",
    "list_keys",
    "register",
    "revoke_key",
    "rotate_key",
    "usage",
]


class Application(Result, frozen=True):
    """Who uses the server."""

    id: str
    name: str
    created_at: int


class KeySecret(Result, frozen=True):
    """One secret of a key, without its hidden part."""

    prefix: str
    created_at: int
    expires_at: int | None = None
    last_used_at: int | None = None


class Key(Result, frozen=True):
    """One key. `key` is its secret, in the reply that makes it and nowhere else."""

    id: str
    application_id: str
    name: str
    status: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    limits: Mapping[str, float]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    secrets: tuple[KeySecret, ...] = ()
    key: str | None = None


class UsageRow(Result, frozen=True):
    """What a key used of a model on a day."""

    key_id: str
    model: str
    day: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    money: float = 0.0


class AuditEntry(Result, frozen=True):
    """One request in the audit log; `guard` is what the guard found in it."""

    id: int
    time: float
    request_id: str | None = None
    tenant: str | None = None
    key_id: str | None = None
    address: str | None = None
    route: str | None = None
    model: str | None = None
    status: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    duration_ms: int | None = None
    guard: Any = None


class KeyLimits(TypedDict, total=False):
    """Limits of a key; what is left out is unlimited."""

    requests_per_minute: int
    tokens_per_minute: int
    concurrency: int
    tokens_per_day: int
    tokens_per_month: int
    money_per_day: float
    money_per_month: float


def register(name: str) -> Call[Application]:
    """Register an application."""
    body = {"name": name}
    return Call(method="POST", path="/admin/v1/applications", body=body, parse=read_as(Application), repeatable=False)


def applications() -> Call[tuple[Application, ...]]:
    """The applications."""
    return Call(method="GET", path="/admin/v1/applications", parse=read_rows(Application))


def create_key(
    application: str,
    *,
    name: str | None = None,
    scopes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limits: KeyLimits | None = None,
    expires_at: int | None = None,
) -> Call[Key]:
    """Make a key; its secret is in this reply only.

        client.keys.create("shop", scopes=["generate"], limits={"requests_per_minute": 60}).key

    Args:
        application: whose key; its name or id.
        name: what to call the key.
        scopes: groups of routes it is for; left out: all but admin.
        models: patterns of the models it is for, such as "glm-*"; left out: all.
        limits: left out: none.
        expires_at: seconds since 1970.
    """
    body = given(application=application, name=name, scopes=scopes, models=models, limits=limits, expires_at=expires_at)
    return Call(method="POST", path="/admin/v1/keys", body=body, parse=read_as(Key), repeatable=False)


def list_keys(*, application: str | None = None) -> Call[tuple[Key, ...]]:
    """The keys, of all applications or of one."""
    return Call(method="GET", path="/admin/v1/keys", query=given(application=application), parse=read_rows(Key))


def get_key(key_id: str) -> Call[Key]:
    """One key, by its id or the public part of its secret."""
    return Call(method="GET", path=_path(key_id), parse=read_as(Key))


def change_key(
    key_id: str,
    *,
    name: str | None = None,
    scopes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limits: KeyLimits | None = None,
    expires_at: int | None = None,
) -> Call[Key]:
    """Change rights or limits of a key; what is left out stays. See `create_key`."""
    body = given(name=name, scopes=scopes, models=models, limits=limits, expires_at=expires_at)
    return Call(method="PATCH", path=_path(key_id), body=body, parse=read_as(Key))


def rotate_key(key_id: str, *, overlap_seconds: float | None = None) -> Call[Key]:
    """Give a key a new secret; older ones go on working for `overlap_seconds`, a day if left out."""
    body = given(overlap_seconds=overlap_seconds)
    return Call(method="POST", path=_path(key_id, "rotate"), body=body, parse=read_as(Key), repeatable=False)


def revoke_key(key_id: str) -> Call[Key]:
    """End a key with all its secrets, now."""
    return Call(method="POST", path=_path(key_id, "revoke"), parse=read_as(Key))


def usage(
    *, key_id: str | None = None, first_day: str | None = None, last_day: str | None = None
) -> Call[tuple[UsageRow, ...]]:
    """Tokens and money by key, model and day; days are written 2026-11-01."""
    query = given(key_id=key_id, to=last_day) | ({} if first_day is None else {"from": first_day})
    return Call(method="GET", path="/admin/v1/usage", query=query, parse=read_rows(UsageRow))


def audit(
    *, key_id: str | None = None, limit: int | None = None, before: int | None = None
) -> Call[tuple[AuditEntry, ...]]:
    """The audit log, newest first; `before` is the id of the last entry that was seen."""
    query = given(key_id=key_id, limit=limit, before=before)
    return Call(method="GET", path="/admin/v1/audit", query=query, parse=read_rows(AuditEntry))


def _path(key_id: str, *verb: str) -> str:
    return place("admin", "v1", "keys", key_id, *verb)
