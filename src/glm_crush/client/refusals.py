"""What a server refused, as one of our errors; and whether asking again is worth it.

Above: the attempts and the streams. Below: the table of codes that the server also uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import msgspec

from glm_crush.error_codes import error_class
from glm_crush.errors import GlmError, OverloadedError, ProtocolError, RateLimitError, RequestError

__all__ = ["decoded", "refusal", "reported", "retry_after_seconds"]

T = TypeVar("T")


def decoded(text: str | bytes, kind: type[T], what: str) -> T:
    """A piece of a stream as a value. Raises ProtocolError: it is no `what`."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the server sent no {what} ({error}): {text[:200]!r}") from error


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> GlmError:
    """The error of an answer that is no success; `headers` with names in small letters."""
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    fields = error if isinstance(error, dict) else {"message": error or content[:200].decode("utf-8", errors="replace")}
    made = _error(status, fields, retry_after_seconds(headers))
    made.request_id = headers.get("x-request-id")
    return made


def reported(fields: Mapping[str, Any]) -> GlmError:
    """The error that a stream which had begun ended with."""
    message = f"the server stopped in the middle of the reply: {fields.get('message')}"
    return _error(500, {**fields, "message": message}, None)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """When the server wants to be asked again: in milliseconds, seconds, or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (zoned - datetime.now(UTC)).total_seconds())


def _error(status: int, fields: Mapping[str, Any], wait: float | None) -> GlmError:
    code, parameter = fields.get("code"), fields.get("param")
    found = error_class(status, code if isinstance(code, str) else None)
    message = f"{fields.get('message') or 'no reason given'} (status {status})"
    if status == 401:
        message += "; give the key as api_key, --api-key or GLM_API_KEY"
    if issubclass(found, RequestError):
        return found(message, parameter=parameter if isinstance(parameter, str) else None)
    if issubclass(found, RateLimitError):
        return found(message, retry_after_seconds=wait)
    if issubclass(found, OverloadedError):
        return found(message, retry_after_seconds=1.0 if wait is None else wait)
    return found(message)
