"""The API described: an OpenAPI 3.1 document and a page that shows it, without anything from the network.

Above: `app.py`, which builds them when they are first asked for. Below: the request classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

__all__ = ["Endpoint", "openapi_document", "openapi_page"]

Dialect = Literal["openai", "anthropic", "ollama"]


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
}
_STREAM_TYPES: Mapping[Dialect, str] = {
    "openai": "text/event-stream",
    "anthropic": "text/event-stream",
    "ollama": "application/x-ndjson",
}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path; `streams` says that the reply may be a stream, `dialect` whose errors it has."""

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    streams: bool = False
    dialect: Dialect = "openai"


def openapi_document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The description of `endpoints`."""
    bodies = [endpoint.body for endpoint in endpoints if endpoint.body is not None]
    names, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    schemas = {**dict(_ERROR_SCHEMAS.values()), **definitions.get("$defs", {})}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        reference = names[(endpoint.body, "validation")] if endpoint.body is not None else None
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, reference)
    return {
        "openapi": "3.1.0",
        "info": {"title": "GLM-Crush", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: Endpoint, body: Mapping[str, Any] | None) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint.streams:
        content[_STREAM_TYPES[endpoint.dialect]] = {"schema": {"type": "string"}}
    error_schema, _ = _ERROR_SCHEMAS[endpoint.dialect]
    error = {
        "description": "an error in the dialect's shape",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error_schema}"}}},
    }
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {"200": {"description": "the reply", "content": content}, "default": error},
    }
    if "{" in endpoint.path:
        name = endpoint.path.split("{")[1].split("}")[0]
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": dict(body)}}}
    return operation


def openapi_page(document: Mapping[str, Any]) -> str:
    """The document as one HTML page that needs no other file."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = body.get("$ref", "").rpartition("/")[2]
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>")
            if name:
                parts.append(_table(document["components"]["schemas"][name]))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>GLM-Crush API</title><style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:60em;"
        "margin:2em auto;padding:0 1em}td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}</style>"
        f"<h1>GLM-Crush {escape(document['info']['version'])}</h1>"
        f"<p>The whole description: <a href=/openapi.json>openapi.json</a></p>{''.join(parts)}</html>"
    )


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}</td>"
        f"<td><code>{escape(_type(field))}</code></td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>field</th><th>type</th></tr>{rows}</table>"


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(arm) for arm in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type") or json.dumps(field.get("const", "any")))
