"""Grammars for replies with tools: which calls may be made, in the form that the model writes them.

Above: the protocol adapters. Below: the markers and the declared tools. GLM's calls become a Lark grammar over its
tags, other models' a JSON schema; the parser of `tool_calls` reads back what these grammars let through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from glm_crush.chat.reply_markers import Marker, ReplyMarkers
from glm_crush.chat.tool_schema import ToolSchema
from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput

__all__ = ["answer_or_call_grammar", "call_grammar", "json_call_schema", "styled_schema"]

_SHARED = 'NL: "\\n"\nTEXT: /(.|\\n)*/\nKEY: /[A-Za-z_][A-Za-z0-9_]*/\n'


def call_grammar(
    markers: ReplyMarkers, tools: Mapping[str, ToolSchema], *, number: Literal["one", "some"]
) -> StructuredOutput:
    """A reply of one call, or of one and more, to the given tools and nothing else.

    A model without a form of its own writes one JSON object `{"name": ..., "arguments": {...}}`.
    """
    if markers.tool_format is None:
        return StructuredOutput.json_schema(json_call_schema(tools))
    start = "start: call\n" if number == "one" else "start: call (NL? call)*\n"
    return StructuredOutput(
        kind="lark", grammar=start + _call_rules(markers, tools), call_token_id=markers.ids["tool_call"]
    )


def answer_or_call_grammar(
    markers: ReplyMarkers, tools: Mapping[str, ToolSchema], answer: StructuredOutput
) -> StructuredOutput:
    """A reply that is either JSON of `answer`'s schema or calls.

    Raises:
        InvalidParameterError: the model has no form for calls, or the answer is not to be JSON.
    """
    if markers.tool_format is None or answer.kind != "json_schema":
        raise InvalidParameterError(
            "an answer's format and tools together need a model that marks its calls, and a JSON format; "
            'leave one of them out, or give tool_choice "required" or "none"',
            parameter="response_format",
        )
    start = f"start: call (NL? call)* | answer\nanswer: %json {answer.grammar}\n"
    return StructuredOutput(
        kind="lark", grammar=start + _call_rules(markers, tools), call_token_id=markers.ids["tool_call"]
    )


def json_call_schema(tools: Mapping[str, ToolSchema]) -> dict[str, Any]:
    """The schema of `{"name": <one of the tools>, "arguments": <as its schema says>}`."""
    arms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "arguments": _moved(_object_schema(tool), f"#/anyOf/{number}/properties/arguments"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools.values())
    ]
    return styled_schema({"anyOf": arms}, lenient=not any(tool.strict for tool in tools.values()))


def styled_schema(schema: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """The schema with the white space that models write; `lenient` ignores keywords that cannot be enforced.

    What the schema itself says in `x-guidance` counts more.
    """
    style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": lenient}
    own = schema.get("x-guidance")
    return {**schema, "x-guidance": {**style, **(own if isinstance(own, Mapping) else {})}}


def _object_schema(tool: ToolSchema) -> dict[str, Any]:
    """The parameters as a schema of an object; without any the object is empty."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    closed = {"additionalProperties": False} if tool.properties else {}
    return {"type": "object", **closed, **tool.parameters}


def _moved(value: Any, place: str) -> Any:
    """A schema that stands at `place` of another one: its local references begin there."""
    if isinstance(value, Mapping):
        return {
            key: f"{place}{inner[1:]}"
            if key == "$ref" and isinstance(inner, str) and inner.startswith("#")
            else _moved(inner, place)
            for key, inner in value.items()
        }
    return [_moved(inner, place) for inner in value] if isinstance(value, list) else value


def _call_rules(markers: ReplyMarkers, tools: Mapping[str, ToolSchema]) -> str:
    opening, closing = _tag(markers, "tool_call"), _tag(markers, "/tool_call")
    if markers.tool_format == "json":
        schema = json.dumps(json_call_schema(tools))
        return f"call: {opening} NL? object NL? {closing}\nobject: %json {schema}\n{_SHARED}"
    names = " | ".join(f"function_{number}" for number in range(len(tools)))
    rules = "".join(_function_rules(markers, number, tool) for number, tool in enumerate(tools.values()))
    return f"call: {opening} ({names}) {closing}\n{rules}{_SHARED}"


def _function_rules(markers: ReplyMarkers, number: int, tool: ToolSchema) -> str:
    """Name and arguments, in the order in which the schema declares them."""
    arguments, rules = "", ""
    for place, (key, schema) in enumerate(tool.properties.items()):
        name = f"argument_{number}_{place}"
        arguments += f" {name}" if key in tool.required else f" {name}?"
        rules += f"{name}: {_argument(markers, json.dumps(key, ensure_ascii=False), f'{name}_value')}\n"
        rules += f"{name}_value: {_value(schema, tool, key)}\n"
    if tool.parameters.get("additionalProperties"):
        arguments += f" other_{number}*"
        rules += f"other_{number}: {_argument(markers, 'KEY', 'TEXT')}\n"
    return f"function_{number}: {json.dumps(tool.name)} NL?{arguments}\n{rules}"


def _argument(markers: ReplyMarkers, key: str, value: str) -> str:
    return (
        f"{_tag(markers, 'arg_key')} {key} {_tag(markers, '/arg_key')} NL? "
        f"{_tag(markers, 'arg_value')} {value} {_tag(markers, '/arg_value')} NL?"
    )


def _value(schema: Any, tool: ToolSchema, key: str) -> str:
    """A string as it is, one of a few strings, or JSON."""
    if not tool.is_string(key):
        definitions = {name: tool.parameters[name] for name in ("$defs", "definitions") if name in tool.parameters}
        inner = {"anyOf": [{} if schema else {"enum": []}]} if isinstance(schema, bool) else dict(schema)
        return f"%json {json.dumps(styled_schema({**definitions, **inner}, lenient=not tool.strict))}"
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices and all(isinstance(choice, str) and choice for choice in choices):
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return "TEXT"


def _tag(markers: ReplyMarkers, marker: Marker) -> str:
    """The token itself, which no text can spell."""
    return f"<[{markers.ids[marker]}]>"
