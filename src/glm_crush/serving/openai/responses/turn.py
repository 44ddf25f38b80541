"""From a request of /v1/responses to the neutral turn it asks for, refusing by name what this server does not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from glm_crush.chat.context_policy import ContextPolicy
from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.tool_grammar import styled_schema
from glm_crush.chat.tool_schema import ToolSchema, tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.chat_turn import ParameterNames, TurnRequest
from glm_crush.serving.openai.effort import with_effort
from glm_crush.serving.openai.limits import check_temperature
from glm_crush.serving.openai.metadata import check_metadata
from glm_crush.serving.openai.responses.items import Item, chat_messages
from glm_crush.serving.openai.responses.protocol import ResponseRequest
from glm_crush.serving.served_model import ServedModel
from glm_crush.types import SamplingParams, StructuredOutput

__all__ = ["LOGPROBS", "check_include", "check_request", "turn_request", "wants_summary"]

LOGPROBS = "message.output_text.logprobs"
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")
_PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
_NAMES = ParameterNames(messages="input", answer="text.format")
_TOOL_FIELDS = {"type", "name", "description", "parameters", "strict"}
_POLICIES: Mapping[str, ContextPolicy] = {"auto": "truncate", "disabled": "refuse"}
# Neutral values pass, anything else is a 400 that names the field.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "truncation": (None, *_POLICIES),
    "service_tier": (None, "auto", "default"),
    "conversation": (None,),
    "context_management": (None, []),
    "prompt": (None,),
    "prompt_cache_options": (None, {}),
    "moderation": (None,),
    "background_options": (None, {}),
    "access_programs": (None, {}),
    "image": (None, {}),
}


def check_request(request: ResponseRequest) -> None:
    """Refuse what contradicts itself or is not done here.

    Raises:
        InvalidParameterError: names the parameter.
    """
    for name, accepted in _NEUTRAL.items():
        _check_neutral(name, getattr(request, name), accepted)
    if request.text is not None:
        _check_neutral("text.verbosity", request.text.verbosity, (None, "medium"))
    if request.reasoning is not None:
        _check_neutral("reasoning.context", request.reasoning.context, (None, "auto"))
        _check_neutral("reasoning.mode", request.reasoning.mode, (None, "standard"))
        summary = request.reasoning.summary or request.reasoning.generate_summary
        if summary == "concise":
            raise _unsupported("reasoning.summary", summary, "auto or detailed, which show the whole reasoning")
    check_include(request.include or ())
    check_temperature(request.temperature)
    if request.input is None:
        raise InvalidParameterError("input is required", parameter="input")
    if request.background and not request.is_stored:
        raise InvalidParameterError(
            "background is true and store is false; a background response is stored: leave store out",
            parameter="background",
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidParameterError("stream_options is given but stream is not true", parameter="stream_options")
    if request.top_logprobs is not None and LOGPROBS not in (request.include or ()):
        raise InvalidParameterError(
            f"top_logprobs is {request.top_logprobs} but include does not name {LOGPROBS}; add it",
            parameter="top_logprobs",
        )
    check_metadata(request.metadata or {})


def check_include(entries: Iterable[str]) -> None:
    """Refuse what cannot be included. Reasoning is not encrypted, and is always there: that asks for nothing.

    Raises:
        InvalidParameterError: an entry that this server does not know.
    """
    for entry in entries:
        if entry not in (LOGPROBS, "reasoning.encrypted_content"):
            raise _unsupported("include", entry, LOGPROBS)


def turn_request(request: ResponseRequest, model: ServedModel, items: Sequence[Item]) -> TurnRequest:
    """The turn that a checked request asks for, over the whole conversation.

    Raises:
        InvalidParameterError: a parameter is out of range or not to be had from this model; names it.
    """
    effort = None if request.reasoning is None else request.reasoning.effort
    return TurnRequest(
        messages=chat_messages(request.instructions, items),
        params=_sampling_params(request, model.default_params),
        wish=_wish(request),
        variables=with_effort(request.chat_template_kwargs, effort, model, "reasoning.effort"),
        context_policy=None if request.truncation is None else _POLICIES[request.truncation],
        names=_NAMES,
    )


def wants_summary(request: ResponseRequest) -> bool:
    """Whether the reasoning is shown as its summary."""
    reasoning = request.reasoning
    return reasoning is not None and (reasoning.summary or reasoning.generate_summary) is not None


def _sampling_params(request: ResponseRequest, defaults: SamplingParams) -> SamplingParams:
    names = (*_SAMPLING, *_PENALTIES)
    given: dict[str, Any] = {name: value for name in names if (value := getattr(request, name)) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0  # vLLM's spelling of "all"
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    logprobs = (request.top_logprobs or 0) if LOGPROBS in (request.include or ()) else None
    return replace(defaults, max_tokens=request.max_output_tokens, logprobs=logprobs, **given)


def _wish(request: ResponseRequest) -> ReplyWish:
    tools = [_chat_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools or ())]
    schemas = _schemas(tools)
    choice, callable_schemas = _choice(request.tool_choice, schemas)
    return ReplyWish(
        tools=tools,
        schemas=callable_schemas,
        choice=choice,
        parallel=request.parallel_tool_calls is not False,
        answer=_answer(request),
    )


def _chat_tool(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The description that chat templates know."""
    if tool.get("type") != "function":
        raise InvalidParameterError(
            f"{place}.type is {tool.get('type')!r:.80}, which this server does not run; give tools of type function",
            parameter=f"{place}.type",
        )
    for name, value in tool.items():
        if name not in _TOOL_FIELDS and value is not None:
            raise InvalidParameterError(f"{place}.{name:.60} is not supported; remove it", parameter=f"{place}.{name}")
    function = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
    return {"type": "function", "function": {**function, "strict": tool.get("strict") is True}}


def _schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, ToolSchema]:
    """The schemas, with places called as in the request: a tool of this API has no `function`."""
    try:
        return tool_schemas(tools)
    except InvalidParameterError as error:
        parameter = (error.parameter or "tools").replace(".function", "")
        raise InvalidParameterError(str(error).replace(".function", ""), parameter=parameter) from error


def _choice(
    choice: str | Mapping[str, Any] | None, schemas: Mapping[str, ToolSchema]
) -> tuple[str, Mapping[str, ToolSchema]]:
    """The choice, and the tools that may be called."""
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        named = [tool.get("name") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
        names = [name for name in named if isinstance(name, str)]
        mode = choice.get("mode", "auto")
        if (
            not names
            or len(names) != len(named)
            or any(name not in schemas for name in names)
            or mode not in ("auto", "required")
        ):
            raise _wrong_choice(choice, schemas)
        return str(mode), {name: tool for name, tool in schemas.items() if name in names}
    if isinstance(choice, Mapping):
        name = choice.get("name")
        if choice.get("type") != "function" or not isinstance(name, str) or name not in schemas:
            raise _wrong_choice(choice, schemas)
        return name, schemas
    if choice is None or choice == "auto":
        return ("auto" if schemas else "none"), schemas
    if choice == "none" or (choice == "required" and schemas):
        return choice, schemas
    raise _wrong_choice(choice, schemas)


def _wrong_choice(choice: object, schemas: Mapping[str, ToolSchema]) -> InvalidParameterError:
    names = ", ".join(schemas) or "none"
    return InvalidParameterError(
        f"tool_choice is {choice!r:.120}; give none, auto, required, a function or allowed_tools (the tools: {names})",
        parameter="tool_choice",
    )


def _answer(request: ResponseRequest) -> StructuredOutput | None:
    wanted = None if request.text is None else request.text.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return _json_schema({"type": "object"}, strict=True)
    if wanted.schema_ is None:
        raise InvalidParameterError(
            "text.format is of the type json_schema without schema; give the schema", parameter="text.format"
        )
    return _json_schema(wanted.schema_, strict=bool(wanted.strict))


def _json_schema(schema: Mapping[str, Any], *, strict: bool) -> StructuredOutput:
    """Not strict: keywords that cannot be enforced are no reason to refuse; what can be enforced is."""
    try:
        return StructuredOutput.json_schema(styled_schema(schema, lenient=not strict))
    except InvalidParameterError as error:
        raise InvalidParameterError(f"text.format: {error}", parameter="text.format") from error


def _check_neutral(name: str, value: object, accepted: Sequence[object]) -> None:
    if value not in accepted:
        alternatives = " or ".join(repr(a) for a in accepted if a)
        raise _unsupported(name, value, f"{alternatives}, or leave it out" if alternatives else "no value")


def _unsupported(name: str, value: object, remedy: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{name} is {value!r:.80}, which this server does not support; give {remedy}", parameter=name
    )
