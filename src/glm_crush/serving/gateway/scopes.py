"""Which group of routes a path belongs to: what a key's scopes speak of.

A path that no line covers belongs to no group, and only keys for everything (`*`) get beyond the door; a test holds
every route of the application against this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glm_crush.errors import InvalidParameterError

__all__ = ["OPEN_PATHS", "SCOPES", "check_scopes", "scope_of"]

SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "*": "every group but admin",
        "generate": "chat, completions, responses, messages",
        "embed": "embeddings, rerank, score",
        "models": "list and describe models",
        "tokenize": "tokenize, detokenize, render, count tokens",
        "moderate": "moderations",
        "files": "files and batches",
        "manage": "pull, copy, create and delete models; load and unload adapters",
        "metrics": "metrics and load",
        "admin": "applications, keys, usage, audit log",
    }
)

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
        "/v1/conversations": "generate",
        "/v1/messages": "generate",
        "/v1/messages/count_tokens": "tokenize",
        "/v1/messages/batches": "files",
        "/v1/ws": "generate",
        "/mcp": "generate",
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
