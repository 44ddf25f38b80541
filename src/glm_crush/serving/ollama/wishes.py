"""From an Ollama request to a neutral turn.

Above: chat and generate. Below: `TurnRequest`. Everything that cannot be honoured is refused here by its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.tool_grammar import styled_schema
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.chat_turn import ParameterNames
from glm_crush.serving.ollama.options import Wanted, merged_options, wanted
from glm_crush.serving.ollama.protocol import GenerationFields, OllamaMessage
from glm_crush.serving.served_model import ServedModel
from glm_crush.types import Message, SamplingParams, StructuredOutput

__all__ = [
    "NAMES",
    "answer_form",
    "neutral_messages",
    "refuse_images",
    "refuse_unless",
    "reply_wish",
    "sampling_params",
    "template_variables",
    "with_sampling",
]

NAMES = ParameterNames(answer="format", variables="think")


def sampling_params(
    request: GenerationFields, model: ServedModel, defaults: dict[str, Any]
) -> tuple[SamplingParams, Wanted]:
    """The parameters of a reply, and the limits beside them; `defaults` are options that the model was created with.

    Raises:
        InvalidParameterError: an option is out of range or not supported; names it.
    """
    if request.top_logprobs and not request.logprobs:
        raise InvalidParameterError(
            f"top_logprobs is {request.top_logprobs} but logprobs is not true; set logprobs", parameter="top_logprobs"
        )
    want = wanted(merged_options(defaults, request.options))
    if want.context_length is not None and want.context_length > model.context_length:
        raise InvalidParameterError(
            f"options.num_ctx is {want.context_length}; {model.name} is served with a context of "
            f"{model.context_length} tokens: give less, or start the server with a longer --context",
            parameter="options.num_ctx",
        )
    if want.max_tokens is not None and want.max_tokens >= (want.context_length or model.context_length):
        want = replace(want, max_tokens=None)  # the reply ends where the context does
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return with_sampling(model.default_params, want, logprobs), want


def with_sampling(defaults: SamplingParams, want: Wanted, logprobs: int | None = None) -> SamplingParams:
    """The defaults with what is wanted. Raises InvalidParameterError under Ollama's name of the option."""
    try:
        return replace(defaults, max_tokens=want.max_tokens, logprobs=logprobs, **want.sampling)
    except InvalidParameterError as error:
        ours = error.parameter or ""
        theirs = f"options.{'repeat_penalty' if ours == 'repetition_penalty' else ours}"
        raise InvalidParameterError(str(error).replace(ours, theirs, 1), parameter=theirs) from error


def template_variables(request: GenerationFields, model: ServedModel) -> dict[str, Any]:
    """`think` as the template's switch; None leaves it to the model.

    Raises:
        InvalidParameterError: a level of thinking, or thinking of a model that does not.
    """
    if request.think is None:
        return {}
    if isinstance(request.think, str):
        raise InvalidParameterError(
            f"think is {request.think!r:.40}; there are no levels of thinking here: give true or false",
            parameter="think",
        )
    reasons = model.replies is not None and model.replies.markers.can_reason
    refuse_unless(reasons or not request.think, "think", True, f"{model.name} does not think in writing")
    return {"enable_thinking": request.think}


def reply_wish(request: GenerationFields, tools: Sequence[dict[str, Any]] = ()) -> ReplyWish:
    """Tools and form.

    Raises:
        InvalidParameterError: a tool or the format is malformed; names it.
    """
    schemas = tool_schemas(tools)
    return ReplyWish(tools=tools, schemas=schemas, choice="auto" if schemas else "none", answer=answer_form(request))


def answer_form(request: GenerationFields) -> StructuredOutput | None:
    """What `format` asks for: "json", or a JSON schema. Raises InvalidParameterError."""
    if not request.format and not isinstance(request.format, dict):
        return None
    schema = {"type": "object"} if request.format == "json" else request.format
    assert isinstance(schema, dict)
    try:
        return StructuredOutput.json_schema(styled_schema(schema, lenient=True))
    except InvalidParameterError as error:
        raise InvalidParameterError(f"format: {error}", parameter="format") from error


def neutral_messages(messages: Sequence[OllamaMessage]) -> list[Message]:
    """The messages as chat templates expect them.

    Raises:
        InvalidParameterError: a message has images; names it.
    """
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def refuse_images(images: Sequence[Any] | None, where: str) -> None:
    """Raises InvalidParameterError when there are any."""
    if images:
        raise InvalidParameterError(f"{where} holds {len(images)} images; this model reads only text", parameter=where)


def refuse_unless(accepted: bool, name: str, value: object, remedy: str) -> None:
    """Raises InvalidParameterError that names the parameter, unless its value is accepted."""
    if not accepted:
        raise InvalidParameterError(f"{name} is {value!r:.80}, which is not supported: {remedy}", parameter=name)


def _message(message: OllamaMessage, where: str) -> Message:
    refuse_images(message.images, f"{where}.images")
    result: Message = {"role": message.role, "content": message.content or ""}
    if message.thinking:
        result["reasoning_content"] = message.thinking
    if message.tool_name:
        result["name"] = message.tool_name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return result
