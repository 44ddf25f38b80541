"""From an Anthropic request to a neutral turn: tools and their choice, form, thinking, sampling.

Above: the routes. Below: `TurnRequest`. Everything that cannot be honoured is refused here by its name.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.tool_grammar import styled_schema
from glm_crush.chat.tool_schema import ToolSchema, tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.anthropic.conversation import neutral_messages, prefill_of
from glm_crush.serving.anthropic.protocol import (
    ContextManagement,
    Conversation,
    CreateMessageRequest,
    ToolChoice,
    ToolDefinition,
)
from glm_crush.serving.chat_turn import ParameterNames, TurnRequest
from glm_crush.types import SamplingParams, StructuredOutput

__all__ = ["sampling_params", "turn_request"]

_NAMES = ParameterNames(answer="output_config.format", variables="thinking")
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "speed": (None, "standard"),
    "user_profile_id": (None,),
    "workspace_id": (None,),
    "mcp_servers": (None, []),
    "container": (None,),
    "diagnostics": (None,),
    "inference_geo": (None,),
}


def turn_request(conversation: Conversation, params: SamplingParams) -> TurnRequest:
    """What the conversation asks for.

    Raises:
        InvalidParameterError: something is malformed or not to be had here; names it.
    """
    _refuse_unsupported(conversation)
    prefill = prefill_of(conversation)
    thinking = conversation.thinking
    thinks = thinking is not None and thinking.type != "disabled"
    if prefill and thinks:
        raise InvalidParameterError(
            "the last message is the assistant's, so the reply has begun and cannot think first; "
            "disable thinking or end with a message of the user",
            parameter="thinking",
        )
    return TurnRequest(
        messages=neutral_messages(conversation),
        params=params,
        wish=_wish(conversation),
        variables={"enable_thinking": thinks},
        prefill=prefill,
        max_reasoning_tokens=None if thinking is None else thinking.budget_tokens,
        names=_NAMES,
    )


def sampling_params(request: CreateMessageRequest, defaults: SamplingParams) -> SamplingParams:
    """The parameters of a message.

    Raises:
        InvalidParameterError: a value out of range; names it.
    """
    names = ("temperature", "top_k", "top_p")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(request, name)) is not None}
    if any(not text for text in request.stop_sequences or ()):
        raise InvalidParameterError(
            "stop_sequences contains an empty string; give non-empty strings", parameter="stop_sequences"
        )
    return replace(defaults, max_tokens=request.max_tokens, stop=tuple(request.stop_sequences or ()), **given)


def _wish(conversation: Conversation) -> ReplyWish:
    tools = [_openai_tool(tool, index) for index, tool in enumerate(conversation.tools or ())]
    schemas = _named_schemas(tools)
    choice = conversation.tool_choice
    parallel = choice is None or choice.disable_parallel_tool_use is not True
    return ReplyWish(
        tools=tools,
        schemas=schemas,
        choice=_choice(choice, schemas),
        parallel=parallel,
        answer=_answer(conversation),
    )


def _openai_tool(tool: ToolDefinition, index: int) -> dict[str, Any]:
    """The description that chat templates know; examples of input are told in the text."""
    if tool.type not in (None, "custom"):
        raise InvalidParameterError(
            f"tools[{index}].type is {tool.type!r:.80}, a tool that Anthropic's servers run; "
            "give tools of your own (type 'custom')",
            parameter=f"tools[{index}].type",
        )
    if tool.input_schema is None:
        place = f"tools[{index}].input_schema"
        raise InvalidParameterError(f"{place} is required", parameter=place)
    lines = [tool.description] if tool.description else []
    lines += [f"Example of its input: {json.dumps(e, ensure_ascii=False)}" for e in tool.input_examples or ()]
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema, "strict": tool.strict is True}
    if lines:
        function["description"] = "\n".join(lines)
    return {"type": "function", "function": function}


def _named_schemas(tools: list[dict[str, Any]]) -> dict[str, ToolSchema]:
    """The schemas, with places called as in the request."""
    try:
        return tool_schemas(tools)
    except InvalidParameterError as error:
        message = str(error).replace(".function.parameters", ".input_schema").replace(".function", "")
        parameter = (error.parameter or "tools").replace(".function.parameters", ".input_schema")
        raise InvalidParameterError(message, parameter=parameter.replace(".function", "")) from error


def _choice(choice: ToolChoice | None, tools: dict[str, ToolSchema]) -> str:
    if choice is None:
        return "auto" if tools else "none"
    if choice.name is not None and choice.type != "tool":
        raise InvalidParameterError(
            f"tool_choice.name is given with the type {choice.type!r}; give the type 'tool'",
            parameter="tool_choice.name",
        )
    if choice.type == "none" or (choice.type == "auto" and not tools):
        return "none"
    if not tools:
        raise InvalidParameterError(
            f"tool_choice is {choice.type!r} but there are no tools; give tools", parameter="tool_choice"
        )
    if choice.type != "tool":
        return "auto" if choice.type == "auto" else "required"
    if choice.name not in tools:
        raise InvalidParameterError(
            f"tool_choice.name is {choice.name!r:.80}; the tools are {', '.join(tools)}", parameter="tool_choice.name"
        )
    return choice.name


def _answer(conversation: Conversation) -> StructuredOutput | None:
    config = conversation.output_config
    if config is None:
        return None
    if config.effort not in (None, "high"):
        raise InvalidParameterError(
            f"output_config.effort is {config.effort!r:.40}, which this server does not support; "
            "give 'high' (the usual) or leave it out",
            parameter="output_config.effort",
        )
    if config.format is None:
        return None
    try:
        return StructuredOutput.json_schema(styled_schema(config.format.schema_, lenient=False))
    except InvalidParameterError as error:
        raise InvalidParameterError(f"output_config.format: {error}", parameter="output_config.format") from error


def _refuse_unsupported(conversation: Conversation) -> None:
    for name, accepted in _NEUTRAL.items():
        value = getattr(conversation, name, None)
        if value not in accepted:
            raise InvalidParameterError(
                f"{name} is {value!r:.80}, which this server does not support; leave it out", parameter=name
            )
    for number, edit in enumerate((conversation.context_management or ContextManagement()).edits):
        if not edit.type.startswith("clear_thinking_") or edit.keep != "all":
            raise InvalidParameterError(
                f"context_management.edits[{number}] is {edit.type!r:.80}; this server edits no context: leave it out",
                parameter=f"context_management.edits[{number}]",
            )
    thinking = conversation.thinking
    if thinking is None:
        return
    if (thinking.budget_tokens is not None) != (thinking.type == "enabled"):
        needs = "needs" if thinking.type == "enabled" else "takes no"
        raise InvalidParameterError(
            f"thinking of the type {thinking.type!r} {needs} budget_tokens", parameter="thinking.budget_tokens"
        )
