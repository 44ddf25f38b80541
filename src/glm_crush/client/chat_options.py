"""What may be asked of a reply beside the conversation or the prompt: the names that the server's API has.

Above: the builders of chat, completion and response requests. Below: the errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from glm_crush.client.function_tools import function_tool
from glm_crush.errors import InvalidParameterError

__all__ = ["ChatOptions", "CompletionOptions", "GenerationOptions", "chat_fields", "checked_options"]

Tool = Mapping[str, Any] | Callable[..., Any]


class GenerationOptions(TypedDict, total=False):
    """What chats and completions share; `SamplingParams` says what each means.

    What is not given is as the model's publisher recommends. `model` left out is the server's default; `extra` goes
    into the request as it is, for servers that know more than ours.
    """

    model: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    seed: int | None
    n: int | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    skip_special_tokens: bool | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    prompt_logprobs: int | None
    return_progress: bool | None
    preset: str | None
    use_beam_search: bool | None
    beam_width: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    structured_outputs: Mapping[str, Any] | None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    extra: Mapping[str, Any] | None


class ChatOptions(GenerationOptions, total=False):
    """Options of a chat.

    `tools` are functions with annotated parameters, or descriptions in OpenAI's form. `thinking` switches the reasoning
    of models that can. `json_schema` holds the reply to a schema.
    """

    tools: Sequence[Tool] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    thinking: bool | None
    json_schema: Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    logprobs: bool | None
    top_logprobs: int | None
    max_completion_tokens: int | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    context_policy: Literal["refuse", "truncate", "window", "summarise"] | None


class CompletionOptions(GenerationOptions, total=False):
    """Options of a completion."""

    echo: bool | None
    logprobs: int | None
    best_of: int | None


def checked_options(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The options that were given, as fields of a request.

    Raises:
        InvalidParameterError: one has a name that is not there; names the nearest.
    """
    names = known.__annotations__.keys() | {n for base in known.__mro__ for n in getattr(base, "__annotations__", ())}
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; what only another server knows goes into extra"
            raise InvalidParameterError(f"there is no option {name!r:.80}{hint}", parameter=name)
    fields = {name: value for name, value in options.items() if value is not None and name != "extra"}
    return {**fields, **(options.get("extra") or {})}


def chat_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chat request beside the messages.

    Raises:
        InvalidParameterError: an option is unknown, or two of them say the same in two ways.
    """
    fields = checked_options(options, ChatOptions)
    schema, thinking = fields.pop("json_schema", None), fields.pop("thinking", None)
    if schema is not None:
        if "response_format" in fields:
            raise InvalidParameterError(
                "json_schema and response_format are both given; give one", parameter="json_schema"
            )
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    if thinking is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": thinking, **fields.get("chat_template_kwargs", {})}
    if "tools" in fields:
        fields["tools"] = [function_tool(tool) if callable(tool) else tool for tool in fields["tools"]]
    return fields
