"""The API described: an OpenAPI 3.2 document.

Above: `app.py`, which builds it when it is first asked for, and `openapi_page`, which shows it. Below: the classes of
requests and replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

__all__ = ["Endpoint", "openapi_document"]

Dialect = Literal["openai", "anthropic", "ollama", "graphql"]


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR_SCHEMAS: Mapping[Dialect, tuple[str, Mapping[str, Any]]] = {
    "openai": ("Error", _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL))),
    "anthropic": (
        "AnthropicError",
        _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT), request_id=_TEXT),
    ),
    "ollama": ("OllamaError", _object(error=_TEXT)),
    "graphql": (
        "GraphqlErrors",
        _object(errors={"type": "array", "items": _object(message=_TEXT, extensions={"type": "object"})}),
    ),
}
_EVENT = {"type": "object", "required": ["data"], "properties": {"event": _TEXT, "data": _TEXT}}
_STREAM_TYPES: Mapping[Dialect, str] = {
    "openai": "text/event-stream",
    "anthropic": "text/event-stream",
    "ollama": "application/x-ndjson",
    "graphql": "text/event-stream",
}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        body: what is sent as JSON, unless `optional_body` allows none.
        form: what is sent as multipart/form-data instead, field by field.
        streams: the reply may be a stream. dialect: whose errors it has.
        reply: the type of the JSON of a success; None: no body. status: of a success.
        media_type: of a success that is no JSON.
        query: the query parameters and their schemas.
        may_be_unavailable: a 503 of this route is an answer, not an error.
    """

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    streams: bool = False
    dialect: Dialect = "openai"
    reply: Any = dict[str, Any]
    status: int = 200
    media_type: str = "application/json"
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    form: Mapping[str, Mapping[str, Any]] | None = None
    may_be_unavailable: bool = False
    optional_body: bool = False


def openapi_document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The description of `endpoints`."""
    # By their representations, which name the module too: several dialects have a ChatRequest.
    bodies = {repr(endpoint.body): endpoint.body for endpoint in endpoints if endpoint.body is not None}
    replies = {repr(endpoint.reply): endpoint.reply for endpoint in endpoints if endpoint.reply is not None}
    inputs: list[Any] = [(name, "validation", TypeAdapter(body)) for name, body in bodies.items()]
    inputs += [(name, "serialization", TypeAdapter(reply)) for name, reply in replies.items()]
    references, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    schemas = {**dict(_ERROR_SCHEMAS.values()), **dict(sorted(definitions.get("$defs", {}).items()))}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        body = None if endpoint.body is None else references[repr(endpoint.body), "validation"]
        reply = None if endpoint.reply is None else references[repr(endpoint.reply), "serialization"]
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, body, reply)
    return {
        "openapi": "3.2.0",
        "info": {"title": "GLM-Crush", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: Endpoint, body: Mapping[str, Any] | None, reply: Mapping[str, Any] | None) -> dict[str, Any]:
    error_schema, _ = _ERROR_SCHEMAS[endpoint.dialect]
    error = {
        "description": "an error in the dialect's shape",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error_schema}"}}},
    }
    success = {"description": "the reply", "content": _success(endpoint, reply)}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): success,
            **({"503": {**success, "description": "the same, while it cannot"}} if endpoint.may_be_unavailable else {}),
            "default": error,
        },
    }
    parameters = [_parameter(name, "path", {"type": "string"}) for name in re.findall(r"{(\w+)}", endpoint.path)]
    parameters += [_parameter(name, "query", schema) for name, schema in endpoint.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        content = {"application/json": {"schema": dict(body)}}
        operation["requestBody"] = {"required": not endpoint.optional_body, "content": content}
    elif endpoint.form is not None:
        form = _object(**endpoint.form)
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return operation


def _success(endpoint: Endpoint, reply: Mapping[str, Any] | None) -> dict[str, Any]:
    """The body of a success by media type; of a stream each item is described."""
    if reply is None:
        return {}
    content: dict[str, Any] = {endpoint.media_type: {"schema": dict(reply)}}
    if endpoint.streams:
        media_type = _STREAM_TYPES[endpoint.dialect]
        content[media_type] = {"itemSchema": _EVENT if media_type == "text/event-stream" else dict(reply)}
    return content


def _parameter(name: str, place: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": dict(schema)}
