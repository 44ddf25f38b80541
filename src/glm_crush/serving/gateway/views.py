"""Keys, applications and limits as JSON, for the admin routes and `glm keys --json`.

A secret is in none of them but the one reply that makes it.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from glm_crush.serving.gateway.records import Application, Key, Secret

__all__ = ["application_view", "key_view", "moment"]


def application_view(application: Application) -> dict[str, Any]:
    """One application."""
    return {
        "object": "application",
        "id": application.id,
        "name": application.name,
        "created_at": int(application.created_at),
    }


def key_view(key: Key, now: float, secret: str | None = None) -> dict[str, Any]:
    """One key; `secret` only in the reply to its making."""
    view = {
        "object": "key",
        "id": key.id,
        "application_id": key.application_id,
        "name": key.name,
        "status": _status(key, now),
        "scopes": list(key.scopes),
        "models": list(key.models),
        "limits": {name: value for name, value in asdict(key.limits).items() if value is not None},
        "created_at": int(key.created_at),
        "expires_at": _whole(key.expires_at),
        "revoked_at": _whole(key.revoked_at),
        "last_used_at": _whole(max((s.last_used_at for s in key.secrets if s.last_used_at), default=None)),
        "secrets": [_secret_view(secret) for secret in key.secrets],
    }
    return view if secret is None else {**view, "key": secret}


def moment(seconds: float | None) -> str:
    """A time for people, in UTC; a dash for none."""
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _secret_view(secret: Secret) -> dict[str, Any]:
    return {
        "prefix": secret.prefix,
        "created_at": int(secret.created_at),
        "expires_at": _whole(secret.expires_at),
        "last_used_at": _whole(secret.last_used_at),
    }


def _status(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and now >= key.expires_at else "active"


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
