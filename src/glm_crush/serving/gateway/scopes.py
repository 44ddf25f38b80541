"""Which group of routes a path belongs to: what a key's scopes speak of.

A path that no line covers belongs to no group, and only keys for everything (`*`) get beyond the door; a test holds
every route of the application against this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glm_crush.errors import AccessDeniedError, InvalidParameterError
from glm_crush.serving.gateway.records import Grant

__all__ = ["BY_FIELD", "OPEN_PATHS", "SCOPES", "check_scope", "check_scopes", "scope_of"]

SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "*": "every group but admin",
        "generate": "chat, completions, responses, messages",
        "embed": "embeddings, rerank, score",
        "models": "list and describe models",
        "tokenize": "tokenize, detokenize, render, count tokens",
        "moderate": "moderations",
        "files": "files and batches",
        "manage": "pull, copy, create and delete models; load and unload models and adapters",
        "metrics": "metrics and load",
        "admin": "applications, keys, usage, audit log",
    }
)

# Open to every key: what such a request asks for, field by field, has the scopes.
BY_FIELD = "by field"

# Need no key: a supervisor has none, and they tell nothing.
OPEN_PATHS = frozenset({"/health", "/ready", "/version"})

# The longest beginning decides; a beginning ends at a slash or with the path.
_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat": "generate",
        "/v1/completions": "generate",
        "/v1/chat/completions/render": "tokenize",
        "/v1/completions/render": "tokenize",
        "/v1/responses": "generate",
        "/v1/responses/input_tokens": "tokenize",
        "/v1/conversations": "generate",
        "/v1/messages": "generate",
        "/v1/messages/count_tokens": "tokenize",
        "/v1/messages/batches": "files",
        "/v1/ws": "generate",
        "/mcp": "generate",
        "/graphql": BY_FIELD,
        "/api/chat": "generate",
        "/api/generate": "generate",
        "/v1/embeddings": "embed",
        "/v1/rerank": "embed",
        "/v2/rerank": "embed",
        "/rerank": "embed",
        "/v1/score": "embed",
        "/score": "embed",
        "/api/embed": "embed",
        "/api/embeddings": "embed",
        "/": "models",
        "/docs": "models",
        "/openapi.json": "models",
        "/v1/models": "models",
        "/api/tags": "models",
        "/api/show": "models",
        "/api/ps": "models",
        "/api/version": "models",
        "/v1/tokenize": "tokenize",
        "/v1/detokenize": "tokenize",
        "/v1/render": "tokenize",
        "/tokenize": "tokenize",
        "/detokenize": "tokenize",
        "/render": "tokenize",
        "/v1/moderations": "moderate",
        "/v1/files": "files",
        "/v1/uploads": "files",
        "/v1/batches": "files",
        "/v1/load_lora_adapter": "manage",
        "/v1/unload_lora_adapter": "manage",
        "/api/pull": "manage",
        "/api/push": "manage",
        "/api/create": "manage",
        "/api/copy": "manage",
        "/api/delete": "manage",
        "/api/blobs": "manage",
        "/metrics": "metrics",
        "/load": "metrics",
        "/admin": "admin",
        "/admin/v1/models": "manage",
    }
)


def scope_of(path: str) -> str | None:
    """The group of a path; None when there is none."""
    while path:
        group = _GROUPS.get(path)
        if group is not None:
            return group
        path = path.rpartition("/")[0]
    return None


def check_scope(grant: Grant, wanted: str | None, route: str) -> None:
    """Refuse a route of a group that a key is not for; None is a route without a group.

    Raises:
        AccessDeniedError: says which scope it needs.
    """
    if wanted == BY_FIELD or grant.allows_scope(wanted or ""):
        return
    mine = ", ".join(sorted(grant.scopes))
    if wanted == "admin":
        raise AccessDeniedError(f"{route[:80]} needs a key with the scope admin; this one has {mine}")
    what = f"the scope {wanted} ({SCOPES[wanted]})" if wanted else "the scope *"
    raise AccessDeniedError(f"{route[:80]} needs {what}; this key has {mine}")


def check_scopes(scopes: tuple[str, ...]) -> None:
    """Refuse a scope that does not exist.

    Raises:
        InvalidParameterError: names it.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidParameterError(
                f"there is no scope {scope!r:.40}; give {', '.join(SCOPES)}", parameter="scopes"
            )
    if not scopes:
        raise InvalidParameterError("scopes is empty; give at least one, or '*'", parameter="scopes")
