"""Applications, keys, usage and the audit log, for keys with the scope admin: types and resolvers.

Above: the schema. Below: the gateway's accounts. A secret is in nothing but the one reply that makes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import strawberry
from pydantic import ValidationError

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.gateway import records
from glm_crush.serving.gateway.accounts import MOST_ROWS
from glm_crush.serving.gateway.admin import LimitsBody
from glm_crush.serving.gateway.views import key_view
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.scalars import BigInt
from glm_crush.serving.json_http import explained

__all__ = [
    "Application",
    "AuditEntry",
    "CreateKeyInput",
    "Key",
    "KeyChangeInput",
    "NewKey",
    "UsageRow",
    "application_of",
    "audit_entries",
    "change_key",
    "create_key",
    "key_of",
    "new_key",
    "usage_rows",
]


@strawberry.enum(description="Whether a key opens anything.")
class KeyStatus(Enum):
    """As in the REST routes."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@strawberry.type(description="Whoever uses the server.")
class Application:
    """One application."""

    id: strawberry.ID
    name: str
    created_at: datetime


@strawberry.type(description="How much a key may use; null is no limit. Days and months are those of UTC.")
class KeyLimits:
    """See `records.KeyLimits`."""

    requests_per_minute: BigInt | None
    tokens_per_minute: BigInt | None
    concurrency: BigInt | None
    tokens_per_day: BigInt | None
    tokens_per_month: BigInt | None
    money_per_day: float | None
    money_per_month: float | None


@strawberry.type(description="The public part of a secret of a key.")
class Secret:
    """One secret."""

    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@strawberry.type(description="What one key may do.")
class Key:
    """One key."""

    id: strawberry.ID
    application_id: strawberry.ID
    name: str
    status: KeyStatus
    scopes: list[str]
    models: list[str] = strawberry.field(description="Patterns such as glm-*; none is all models.")
    limits: KeyLimits
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secrets: list[Secret]


@strawberry.type(description="A key that was just made or rotated.")
class NewKey:
    """A key with its secret."""

    key: Key
    secret: str = strawberry.field(description="Cannot be asked for again.")


@strawberry.type(description="What a key used of a model on a day.")
class UsageRow:
    """One row."""

    key_id: strawberry.ID
    model: str
    day: str
    requests: BigInt
    prompt_tokens: BigInt
    completion_tokens: BigInt
    cached_tokens: BigInt
    money: float


@strawberry.type(description="A request that was recorded.")
class AuditEntry:
    """One entry of the audit log."""

    id: BigInt
    time: datetime
    request_id: str
    tenant: str | None
    key_id: strawberry.ID | None
    address: str | None
    route: str
    model: str | None
    status: int
    prompt_tokens: BigInt
    completion_tokens: BigInt
    cached_tokens: BigInt
    duration_ms: BigInt
    guard: str | None = strawberry.field(description="What the guard found and did, without the text.")


@strawberry.input(description="How much a key may use; what is left out is unlimited.")
class KeyLimitsInput:
    """See `records.KeyLimits`."""

    requests_per_minute: BigInt | None = None
    tokens_per_minute: BigInt | None = None
    concurrency: BigInt | None = None
    tokens_per_day: BigInt | None = None
    tokens_per_month: BigInt | None = None
    money_per_day: float | None = None
    money_per_month: float | None = None


@strawberry.input(description="A new key.")
class CreateKeyInput:
    """As POST /admin/v1/keys."""

    application: str = strawberry.field(description="Its name or id.")
    name: str = "default"
    scopes: list[str] | None = None
    models: list[str] | None = None
    limits: KeyLimitsInput | None = None
    expires_at: datetime | None = None


@strawberry.input(description="What shall be different about a key; what is left out stays.")
class KeyChangeInput:
    """As PATCH /admin/v1/keys/{key_id}."""

    name: str | None = None
    scopes: list[str] | None = None
    models: list[str] | None = None
    limits: KeyLimitsInput | None = None
    expires_at: datetime | None = None


async def create_key(context: OperationContext, given: CreateKeyInput) -> NewKey:
    """A new key with its secret."""
    key, secret = await context.accounts.create_key(
        given.application,
        given.name,
        scopes=given.scopes,
        models=given.models,
        limits=_limits(given.limits),
        expires_at=_seconds(given.expires_at),
    )
    return new_key(key, secret)


async def change_key(context: OperationContext, key_id: str, given: KeyChangeInput) -> Key:
    """Other rights or limits for a key."""
    key = await context.accounts.change_key(
        key_id,
        name=given.name,
        scopes=given.scopes,
        models=given.models,
        limits=_limits(given.limits),
        expires_at=_seconds(given.expires_at),
    )
    return key_of(key)


async def usage_rows(
    context: OperationContext, key_id: str | None, first_day: date | None, last_day: date | None
) -> list[UsageRow]:
    """Sums by key, model and day."""
    rows = await context.accounts.usage(
        key_id=key_id,
        first_day=None if first_day is None else first_day.isoformat(),
        last_day=None if last_day is None else last_day.isoformat(),
    )
    return [UsageRow(**row) for row in rows]


async def audit_entries(
    context: OperationContext, first: int, before: int | None, key_id: str | None
) -> list[AuditEntry]:
    """Entries, newest first."""
    if not 1 <= first <= MOST_ROWS:
        raise InvalidParameterError(f"first is {first}; give a number in [1, {MOST_ROWS}]", parameter="first")
    if before is not None and not 1 <= before < 2**63:
        raise InvalidParameterError(f"before is {before!r:.40}; give the id of an entry", parameter="before")
    rows = await context.accounts.audit(limit=first, before=before, key_id=key_id)
    return [AuditEntry(**{**row, "time": _moment(row["time"])}) for row in rows]


def application_of(application: records.Application) -> Application:
    """An application as clients see it."""
    return Application(
        id=strawberry.ID(application.id), name=application.name, created_at=_moment(application.created_at)
    )


def key_of(key: records.Key) -> Key:
    """A key as clients see it."""
    view = key_view(key, time.time())
    moments = {name: _optional(view[name]) for name in ("expires_at", "revoked_at", "last_used_at")}
    return Key(
        id=view["id"],
        application_id=view["application_id"],
        name=view["name"],
        status=KeyStatus(view["status"]),
        scopes=view["scopes"],
        models=view["models"],
        limits=KeyLimits(**asdict(key.limits)),
        created_at=_moment(view["created_at"]),
        secrets=[_secret(secret) for secret in view["secrets"]],
        **moments,
    )


def new_key(key: records.Key, secret: str) -> NewKey:
    """A key with its secret."""
    return NewKey(key=key_of(key), secret=secret)


def _secret(view: Mapping[str, Any]) -> Secret:
    return Secret(
        prefix=view["prefix"],
        created_at=_moment(view["created_at"]),
        expires_at=_optional(view["expires_at"]),
        last_used_at=_optional(view["last_used_at"]),
    )


def _limits(given: KeyLimitsInput | None) -> records.KeyLimits | None:
    if given is None:
        return None
    try:
        return LimitsBody.model_validate(asdict(given)).limits()
    except ValidationError as error:
        raise explained(error, LimitsBody.model_fields) from None


def _seconds(moment: datetime | None) -> float | None:
    """Seconds since 1970; a time without a zone is one of UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _optional(seconds: float | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)
