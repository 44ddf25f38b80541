"""The input of a batch: one request on each line of a file.

Above: the runner. Below: JSON. All functions block; callers run them in threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pydantic_core import to_json

__all__ = ["MOST_LINES", "BatchLine", "InputReport", "check_input", "read_lines"]

MOST_LINES = 50_000
_LONGEST_LINE = 16 * 2**20
_LONGEST_ID = 512
_MOST_ERRORS = 50


@dataclass(frozen=True)
class BatchLine:
    """One request; `number` counts from 1 as lines of the file do."""

    number: int
    custom_id: str
    body: bytes


@dataclass
class InputReport:
    """What a whole input is; with `errors` it is not run.

    Attributes:
        total: requests. model: that of the first. errors: in OpenAI's shape.
    """

    total: int = 0
    model: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)


class LineError(ValueError):
    """A line is no request; `code` as OpenAI's, `parameter` what is wrong."""

    def __init__(self, code: str, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.parameter = parameter


def read_lines(content: BinaryIO, endpoint: str) -> Iterator[BatchLine]:
    """The requests of an input that has been checked."""
    for number, raw in _raw_lines(content):
        values = _request(raw, endpoint)
        yield BatchLine(number, values["custom_id"], to_json(values["body"]))


def check_input(content: BinaryIO, endpoint: str) -> InputReport:
    """Check every line."""
    report = InputReport()
    seen: set[str] = set()
    for number, raw in _raw_lines(content):
        try:
            values = _request(raw, endpoint)
            if values["custom_id"] in seen:
                raise LineError("duplicate_custom_id", "custom_id was given before; give each once", "custom_id")
        except LineError as error:
            report.errors.append({"code": error.code, "line": number, "message": str(error), "param": error.parameter})
            if len(report.errors) == _MOST_ERRORS:
                return report
            continue
        seen.add(values["custom_id"])
        if report.total == 0:
            model = values["body"].get("model")
            report.model = model.replace("\0", "") if isinstance(model, str) else None  # no text of PostgreSQL's
        report.total += 1
        if report.total > MOST_LINES:
            report.errors.append(_whole("too_many_requests", f"the file has more than {MOST_LINES} requests"))
            return report
    if report.total == 0 and not report.errors:
        report.errors.append(_whole("empty_file", "the file has no requests"))
    return report


def _whole(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "line": None, "message": message, "param": None}


def _raw_lines(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := content.readline(_LONGEST_LINE + 1):
        number += 1
        if raw.strip():
            yield number, raw


def _request(raw: bytes, endpoint: str) -> dict[str, Any]:
    if len(raw) > _LONGEST_LINE:
        raise LineError("line_too_long", f"the line has more than {_LONGEST_LINE} bytes")
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LineError("invalid_json_line", f"the line is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise LineError("invalid_json_line", "the line is not a JSON object")
    for name in values:
        if name not in ("custom_id", "method", "url", "body"):
            raise LineError("unknown_field", f"{name:.60} is not a field of a line; remove it", name)
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _LONGEST_ID:
        raise LineError("missing_required_parameter", f"give a custom_id of 1 to {_LONGEST_ID} characters", "custom_id")
    if values.get("method") != "POST":
        raise LineError("invalid_method", f"method is {values.get('method')!r:.40}; give POST", "method")
    if values.get("url") != endpoint:
        raise LineError("mismatched_url", f"url is {values.get('url')!r:.80}; the batch is for {endpoint}", "url")
    body = values.get("body")
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "body is required; give the request", "body")
    for name in ("stream", "background"):
        if body.get(name):
            raise LineError("invalid_request", f"body.{name} is true, which a batch has no use for", f"body.{name}")
    return values
