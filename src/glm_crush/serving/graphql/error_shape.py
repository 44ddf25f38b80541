"""Errors of HTTP on GraphQL's path, in GraphQL's shape: no key, too large, too many requests.

Above: `app.py`. Below: the table of `serving/errors.py`. Imports nothing of GraphQL: it is there from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from glm_crush.serving.errors import ErrorReply, ErrorShape

__all__ = ["GRAPHQL_ERRORS", "classification", "error_extensions"]

_CLASSIFICATIONS = {401: "UNAUTHORIZED", 403: "FORBIDDEN", 429: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "UNAVAILABLE"}


def classification(status: int) -> str:
    """Whose fault an error is, in the words of Spring for GraphQL, which tools know."""
    return _CLASSIFICATIONS.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")


def error_extensions(reply: ErrorReply, request_id: str, parameter: str | None = None) -> dict[str, Any]:
    """What programs read of an error; `parameter` is its name in the schema."""
    facts: dict[str, Any] = {
        "code": reply.code or reply.type,
        "classification": classification(reply.status),
        "status": reply.status,
        "type": reply.type,
    }
    if parameter is not None:
        facts["parameter"] = parameter
    if "retry-after" in reply.headers:
        facts["retryAfterSeconds"] = float(reply.headers["retry-after"])
    return {**facts, "requestId": request_id}


def _body(reply: ErrorReply, request_id: str) -> dict[str, object]:
    return {"errors": [{"message": reply.message, "extensions": error_extensions(reply, request_id)}]}


GRAPHQL_ERRORS: Mapping[str, ErrorShape] = MappingProxyType({"/graphql": _body})
"""For `ErrorShapes`."""
