"""Which HTTP status and code stand for which exception: the server turns one into the other, the client turns it back.

Above: `serving.errors`, `client.refusals`. Below: the exceptions.
"""

from __future__ import annotations

from glm_crush import errors

__all__ = ["ERROR_CODES", "error_class"]

# The most derived class that matches wins; the order is that of the tree in errors.py, leaves first.
ERROR_CODES: tuple[tuple[type[errors.GlmError], int, str | None], ...] = (
    (errors.ContextLengthError, 400, "context_length_exceeded"),
    (errors.ContentBlockedError, 400, "content_filter"),
    (errors.InvalidParameterError, 400, "invalid_parameter"),
    (errors.RecordNotFoundError, 404, "not_found"),
    (errors.RequestError, 400, None),
    (errors.TemplateError, 400, "template_error"),
    (errors.ModelNotFoundError, 404, "model_not_found"),
    (errors.ModelTooLargeError, 400, "model_too_large"),
    (errors.ModelLoadError, 503, "model_load_failed"),
    (errors.AuthenticationError, 401, "invalid_api_key"),
    (errors.AccessDeniedError, 403, "permission_denied"),
    (errors.QuotaError, 429, "insufficient_quota"),
    (errors.RateLimitError, 429, "rate_limit_exceeded"),
    (errors.AccessError, 403, None),
    (errors.OverloadedError, 503, "engine_overloaded"),
    (errors.DeadlineError, 504, "deadline_exceeded"),
    (errors.EngineError, 503, "engine_stopped"),
    (errors.BlobTooLargeError, 413, "request_too_large"),
    (errors.StorageError, 503, "storage_unavailable"),
)

# Codes of refusals that no exception stands for.
_OTHER_CODES: dict[str, type[errors.GlmError]] = {
    "headers_too_large": errors.RequestError,
    "internal_error": errors.EngineError,
    "request_timeout": errors.DeadlineError,
    "storage_full": errors.StorageError,
    "too_many_connections": errors.OverloadedError,
}
# For servers that send no code of ours.
_STATUSES: dict[int, type[errors.GlmError]] = {
    401: errors.AuthenticationError,
    403: errors.AccessDeniedError,
    404: errors.RecordNotFoundError,
    408: errors.DeadlineError,
    413: errors.BlobTooLargeError,
    429: errors.RateLimitError,
    503: errors.OverloadedError,
    504: errors.DeadlineError,
}


def error_class(status: int, code: str | None) -> type[errors.GlmError]:
    """The exception that a status and a code stand for."""
    known = {row_code: row_class for row_class, _, row_code in reversed(ERROR_CODES) if row_code} | _OTHER_CODES
    if code in known:
        return known[code]
    return _STATUSES.get(status, errors.RequestError if status < 500 else errors.EngineError)
