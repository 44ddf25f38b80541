"""The description of the API as one HTML page that needs no other file, for a browser without a network.

Above: `app.py`. Below: the OpenAPI document. It knows nothing of routes and classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

__all__ = ["openapi_page"]

_STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:72em;margin:0 auto;padding:1em;display:grid;gap:0 2.5em;
grid-template-columns:21em 1fr}
nav{position:sticky;top:0;max-height:100vh;overflow:auto;font-size:14px;padding:1em 0;box-sizing:border-box}
nav h2{font-size:14px;margin:1em 0 .2em}nav a{display:block;text-decoration:none;white-space:nowrap}
main{min-width:0}main h2,main h3{margin:2em 0 .3em;border-top:1px solid var(--line);padding-top:1em;font-size:18px}
td,th{text-align:left;vertical-align:top;padding:.2em 1.5em .2em 0}table{border-collapse:collapse;margin:.5em 0}
code{font-family:ui-monospace,monospace;font-size:.9em;overflow-wrap:anywhere}
@media(max-width:60em){body{display:block}nav{position:static;max-height:none}}
"""
_GROUPS = (("/admin/", "Administration"), ("/api/", "Ollama"), ("/v1/messages", "Anthropic"), ("/v1/", "OpenAI"))
_REST = "Server and others"


def openapi_page(document: Mapping[str, Any]) -> str:
    """Every route with its parameters, body and reply; every type once, with links to it."""
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        group = next((name for beginning, name in _GROUPS if path.startswith(beginning)), _REST)
        groups.setdefault(group, []).extend((path, method, operation) for method, operation in operations.items())
    order = [name for name in ("OpenAI", "Anthropic", "Ollama", "Administration", _REST) if name in groups]
    links: list[str] = []
    routes: list[str] = []
    schemas = document["components"]["schemas"]
    for group in order:
        links.append(f"<h2>{group}</h2>")
        for path, method, operation in groups[group]:
            links.append(f"<a href='#{_anchor(method, path)}'><code>{method.upper()} {escape(path)}</code></a>")
            routes.extend(_route(path, method, operation, schemas))
    types = "".join(
        f"<h3 id='{escape(name)}'><code>{_short(name)}</code></h3>{_fields(schema)}" for name, schema in schemas.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>GLM-Crush API</title><style>{_STYLE}</style>"
        f"<nav>{''.join(links)}<h2><a href='#types'>Types</a></h2></nav>"
        f"<main><h1>GLM-Crush {escape(document['info']['version'])}</h1>"
        "<p>Every route of this server. For programs: <a href=/openapi.json>openapi.json</a></p>"
        f"{''.join(routes)}<h2 id=types>Types</h2>{types}</main></html>"
    )


def _route(path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2 id='{_anchor(method, path)}'><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation['summary'])}</p>"
    parameters = operation.get("parameters", ())
    if parameters:
        yield _rows((p["name"], p["required"], _type(p["schema"])) for p in parameters)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, <code>{escape(media_type)}</code>: {_type(content['schema'])}</p>"
        body = schemas.get(_name(content["schema"]), content["schema"])
        if "properties" in body:
            yield _fields(body)
    for status, reply in operation["responses"].items():
        for media_type, content in reply.get("content", {}).items():
            if status != "default":
                schema = content.get("schema") or content["itemSchema"]
                each = "" if "schema" in content else "each "
                yield f"<p>{status}, <code>{escape(media_type)}</code>: {each}{_type(schema)}</p>"


def _fields(schema: Mapping[str, Any]) -> str:
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    required = schema.get("required", ())
    return _rows((name, name in required, _type(field)) for name, field in schema["properties"].items())


def _rows(rows: Iterator[tuple[str, bool, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if required else ''}</td><td>{what}</td></tr>"
        for name, required, what in rows
    )
    return f"<table><tr><th>field</th><th>type</th></tr>{cells}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """A type in words; one with a name is a link to where it is described."""
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(_type(arm) for arm in schema.get("anyOf") or schema["oneOf"]))
    if "$ref" in schema:
        return f"<a href='#{escape(_name(schema))}'><code>{_short(_name(schema))}</code></a>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(" or ".join(kind) if isinstance(kind, list) else str(kind))


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _short(name: str) -> str:
    """Without the module that tells classes of one name apart."""
    return escape(name.rpartition("__")[2])


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-") or method
