"""What an OpenAI request wants of its reply's form: `tools`, `tool_choice`, `response_format`, `structured_outputs`.

Above: the routes. Below: the tool schemas and `StructuredOutput`. Everything malformed is refused here by its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.tool_grammar import styled_schema
from glm_crush.chat.tool_schema import ToolSchema, tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.protocol import ChatRequest, GenerationRequest, ResponseFormat, StructuredOutputs
from glm_crush.types import StructuredOutput

__all__ = ["reply_wish", "wanted_structure"]


def reply_wish(request: ChatRequest) -> ReplyWish:
    """The wish of a chat request.

    Raises:
        InvalidParameterError: a tool, a choice or a format is malformed, or they contradict each other; names it.
    """
    tools = request.tools or []
    choice, schemas = _choice(request.tool_choice, tool_schemas(tools))
    answer = wanted_structure(request)
    if request.response_format is not None and request.response_format.type != "text":
        if answer is not None:
            raise InvalidParameterError(
                "structured_outputs and response_format are both given; give one of them",
                parameter="structured_outputs",
            )
        answer = _response_format(request.response_format)
    return ReplyWish(
        tools=tools,
        schemas=schemas,
        choice=choice,
        parallel=request.parallel_tool_calls is not False,
        answer=answer,
    )


def wanted_structure(request: GenerationRequest) -> StructuredOutput | None:
    """What `structured_outputs`, vLLM's parameter, asks for.

    Raises:
        InvalidParameterError: not exactly one form is given.
    """
    wanted = request.structured_outputs
    if wanted is None:
        return None
    given = [name for name in StructuredOutputs.model_fields if getattr(wanted, name) is not None]
    if len(given) != 1:
        names = " and ".join(given) or "nothing"
        raise InvalidParameterError(
            f"structured_outputs holds {names}; give one of json, json_object, regex, choice, grammar",
            parameter="structured_outputs",
        )
    if wanted.json_ is not None:
        return _schema(wanted.json_, "structured_outputs", strict=True)
    if wanted.regex is not None:
        return StructuredOutput.regex(wanted.regex)
    if wanted.choice is not None:
        try:
            return StructuredOutput.choice(wanted.choice)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"structured_outputs: {error}", parameter="structured_outputs") from error
    if wanted.grammar is not None:
        return StructuredOutput.lark(wanted.grammar)
    return _schema({"type": "object"}, "structured_outputs", strict=True)


def _response_format(wanted: ResponseFormat) -> StructuredOutput:
    if wanted.type == "json_object":
        return _schema({"type": "object"}, "response_format", strict=True)
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise InvalidParameterError(
            "response_format is of type json_schema without json_schema.schema; give the schema",
            parameter="response_format",
        )
    return _schema(wanted.json_schema.schema_, "response_format", strict=bool(wanted.json_schema.strict))


def _schema(schema: Mapping[str, Any], parameter: str, *, strict: bool) -> StructuredOutput:
    """Not strict: keywords that cannot be enforced are no reason to refuse; what can be enforced is."""
    try:
        return StructuredOutput.json_schema(styled_schema(schema, lenient=not strict))
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{parameter}: {error}", parameter=parameter) from error


def _choice(
    choice: str | dict[str, Any] | None, tools: Mapping[str, ToolSchema]
) -> tuple[str, Mapping[str, ToolSchema]]:
    """The choice, and the tools that may be called."""
    if choice is None:
        return ("auto" if tools else "none"), tools
    if choice == "none" or (choice == "auto" and not tools):
        return "none", tools
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed_tools(choice.get("allowed_tools"), tools)
    name = _function_name(choice)
    if choice not in ("auto", "required") and name is None:
        raise InvalidParameterError(
            f"tool_choice is {choice!r:.80}; give none, auto, required, "
            '{"type": "function", "function": {"name": ...}} or {"type": "allowed_tools", ...}',
            parameter="tool_choice",
        )
    if not tools:
        raise InvalidParameterError(
            f"tool_choice is {name or choice!r} but there are no tools; give tools", parameter="tool_choice"
        )
    if name is not None and name not in tools:
        raise InvalidParameterError(
            f"tool_choice names {name!r:.80}; the tools are {', '.join(tools)}", parameter="tool_choice"
        )
    return name or str(choice), tools


def _allowed_tools(allowed: object, tools: Mapping[str, ToolSchema]) -> tuple[str, Mapping[str, ToolSchema]]:
    """Some of the tools, of which one may (auto) or must (required) be called; all stay in the prompt."""
    wanted = allowed if isinstance(allowed, dict) else {}
    listed = wanted.get("tools")
    names = [_function_name(tool) for tool in listed] if isinstance(listed, list) else []
    if wanted.get("mode") not in ("auto", "required") or not names or None in names:
        raise InvalidParameterError(
            f"tool_choice.allowed_tools is {allowed!r:.80}; give "
            '{"mode": "auto" or "required", "tools": [{"type": "function", "function": {"name": ...}}]}',
            parameter="tool_choice.allowed_tools",
        )
    for name in names:
        if name not in tools:
            raise InvalidParameterError(
                f"tool_choice.allowed_tools names {name!r:.80}; the tools are {', '.join(tools) or 'none'}",
                parameter="tool_choice.allowed_tools",
            )
    return str(wanted["mode"]), {name: tool for name, tool in tools.items() if name in names}


def _function_name(named: object) -> str | None:
    """The name in `{"type": "function", "function": {"name": ...}}`; None if it is something else."""
    function = named.get("function") if isinstance(named, dict) and named.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
