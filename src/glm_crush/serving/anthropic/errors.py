"""Errors in Anthropic's shape: `{"type": "error", "error": {type, message}, "request_id"}`."""

from __future__ import annotations

from glm_crush.serving.anthropic.reply import encode_event
from glm_crush.serving.errors import ErrorReply, error_reply

__all__ = ["anthropic_error", "error_event"]

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(reply: ErrorReply, request_id: str) -> dict[str, object]:
    """The body of a reply that is an error."""
    kind = _TYPES.get(reply.status, "invalid_request_error" if reply.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": reply.message}, "request_id": request_id}


def error_event(error: Exception, request_id: str) -> bytes:
    """What a stream that has begun sends instead of its rest."""
    return encode_event(anthropic_error(error_reply(error), request_id))
