"""Which HTTP status and which OpenAI error body each exception becomes.

Every class of `glm_crush.errors` that a caller may see has one line in `error_codes`; anything else is a 500 whose
message says nothing of our internals (they go to the log, with the request id).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glm_crush import errors
from glm_crush.error_codes import ERROR_CODES

__all__ = ["ApiError", "ErrorReply", "ErrorShape", "ErrorShapes", "error_reply"]


class ApiError(Exception):
    """A refusal that belongs to HTTP rather than to the engine: no route, no key, body too large."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        parameter: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.parameter = parameter
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class ErrorReply:
    """What the client gets: a status, the OpenAI error object, and headers such as Retry-After or Allow."""

    status: int
    type: str
    message: str
    code: str | None = None
    parameter: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """The OpenAI shape: `{"error": {message, type, param, code}}`."""
        return {
            "error": {"message": self.message, "type": self.type, "param": self.parameter, "code": self.code},
        }


ErrorShape = Callable[[ErrorReply, str], dict[str, object]]
"""A protocol's error body, from the reply and the request's id."""


class ErrorShapes:
    """Which protocol's error body a path has: OpenAI's, unless it begins with one of the `prefixes`."""

    def __init__(self, prefixes: Mapping[str, ErrorShape] | None = None) -> None:
        self._prefixes = tuple((prefixes or {}).items())

    def body(self, path: str, reply: ErrorReply, request_id: str) -> dict[str, object]:
        """The body of an error on this path."""
        for prefix, shape in self._prefixes:
            if path.startswith(prefix):
                return shape(reply, request_id)
        return reply.body()


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def error_reply(error: BaseException) -> ErrorReply:
    """The reply for an exception of any kind."""
    if isinstance(error, ApiError):
        return ErrorReply(error.status, _type(error.status), str(error), error.code, error.parameter, error.headers)
    for error_class, status, code in ERROR_CODES:
        if isinstance(error, error_class):
            return ErrorReply(
                status,
                _type(status),
                str(error),
                code,
                _parameter(error),
                _retry_headers(error),
            )
    return ErrorReply(500, "server_error", "internal error; the server's log has the details", "internal_error")


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _parameter(error: errors.GlmError) -> str | None:
    if isinstance(error, errors.RequestError):
        return error.parameter
    if isinstance(error, (errors.ModelNotFoundError, errors.ModelTooLargeError, errors.ModelLoadError)):
        return "model"
    return "messages" if isinstance(error, errors.TemplateError) else None


def _retry_headers(error: errors.GlmError) -> dict[str, str]:
    """Clients wait and try again by this header; the OpenAI SDK also obeys milliseconds, and an order not to."""
    if isinstance(error, errors.RateLimitError):
        if error.retry_after_seconds is None:
            return {"x-should-retry": "false"}
        seconds = error.retry_after_seconds
    elif isinstance(error, (errors.OverloadedError, errors.ModelLoadError)):
        seconds = error.retry_after_seconds
    elif isinstance(error, errors.BlobTooLargeError):
        return {}
    elif isinstance(error, (errors.EngineError, errors.StorageError)):
        seconds = 1.0
    else:
        return {}
    headers = {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1000))}
    return {**headers, "x-should-retry": "false"} if isinstance(error, errors.QuotaError) else headers
