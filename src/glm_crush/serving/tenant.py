"""Whose objects a request may see.

Above: the routes of stored objects. Below: the gateway's admission, where there is one.
"""

from __future__ import annotations

from starlette.requests import Request

__all__ = ["LOCAL_TENANT", "key_of", "tenant_of"]

LOCAL_TENANT = "local"  # of callers without a key


def tenant_of(http: Request) -> str:
    """The tenant that a request was admitted for; files, batches and responses of others do not exist for it."""
    admission = http.scope.get("state", {}).get("admission")
    return LOCAL_TENANT if admission is None else str(admission.tenant)


def key_of(http: Request) -> str | None:
    """The key that a request was admitted with, to be stored with work that goes on without it; None = no key."""
    admission = http.scope.get("state", {}).get("admission")
    key_id: str | None = None if admission is None else admission.grant.key_id
    return key_id
