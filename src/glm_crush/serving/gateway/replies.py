"""The shapes of what the administration of keys answers, for the description of the API.

Above: `admin`. Below: nothing. Real replies are held against these by `make conformance`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

__all__ = ["Application", "ApplicationList", "AuditList", "Key", "KeyList", "UsageList"]


class Application(TypedDict):
    """Who may have keys."""

    object: Literal["application"]
    id: str
    name: str
    created_at: float


class ApplicationList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[Application]


class Key(TypedDict):
    """A key without its secret, but for the one reply that makes it (`key`)."""

    object: Literal["key"]
    id: str
    application_id: str
    name: str
    status: str
    scopes: list[str]
    models: list[str]
    limits: dict[str, float]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    secrets: list[dict[str, Any]]
    key: NotRequired[str]


class KeyList(TypedDict):
    """Some of them."""

    object: Literal["list"]
    data: list[Key]


class UsageRow(TypedDict):
    """What a key used of a model in a day."""

    key_id: str
    model: str
    day: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    money: float


class UsageList(TypedDict):
    """By key, model and day."""

    object: Literal["list"]
    data: list[UsageRow]


class AuditRow(TypedDict):
    """One request."""

    id: int
    time: float
    request_id: str
    tenant: str
    key_id: str | None
    address: str | None
    route: str
    model: str | None
    status: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: int
    guard: str | None


class AuditList(TypedDict):
    """Requests, newest first."""

    object: Literal["list"]
    data: list[AuditRow]
