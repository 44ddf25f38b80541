"""What OpenAI clients send: every field is honoured, or refused by name; none is silently dropped.

Field names are OpenAI's, then vLLM's for what OpenAI lacks (`top_k`, `min_p`, ...). Types are strict: a
number in quotes is refused, as OpenAI does. `Unsupported` fields exist here so that their neutral value is
accepted and any other value is a 400 that names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from glm_crush.errors import InvalidParameterError, RequestError

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest", "parse_request"]

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """`include_usage` adds a last chunk with the token counts; `include_obfuscation` needs nothing from us."""

    include_usage: bool = False
    include_obfuscation: bool = False


class StructuredOutputs(_Strict):
    """What the reply must look like, as vLLM has it: exactly one of these."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GenerationRequest(_Strict):
    """What chat completions and completions share."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    max_tokens: Positive | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    # as vLLM names them
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    # identifiers that change nothing in the reply
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class TextPart(_Strict):
    """One text part of a message's content."""

    type: Literal["text"]
    text: str


def _only_text_parts(content: object) -> object:
    """Name the first part that is an image, a sound or a file, before its fields are found to be unknown."""
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and isinstance(kind := part.get("type"), str) and kind != "text":
            raise PydanticCustomError("not_text", "{kind}", {"index": index, "kind": kind[:40]})
    return content


class ChatMessage(BaseModel):
    """One message; roles and their order are the chat template's business."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[TextPart] | None, BeforeValidator(_only_text_parts)] = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: None = None
    annotations: list[dict[str, Any]] | None = None
    audio: None = None
    function_call: None = None


class JsonSchemaFormat(_Strict):
    """A schema with the name that OpenAI wants it to have; `strict` refuses schemas that cannot be enforced whole."""

    name: str = "reply"
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # neutral values only
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    web_search_options: dict[str, Any] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # neutral values only
    best_of: int | None = None
    suffix: str | None = None


Request = TypeVar("Request", bound=GenerationRequest)


def parse_request(request_class: type[Request], body: bytes) -> Request:
    """The typed request in a JSON body.

    Raises:
        RequestError: not JSON, or not an object.
        InvalidParameterError: an unknown field or one of a wrong type; names it.
    """
    try:
        return request_class.model_validate_json(body)
    except ValidationError as error:
        telling = ("extra_forbidden", "not_text")  # the others may only follow from these
        first = min(error.errors(include_url=False), key=lambda e: e["type"] not in telling)
        raise _explain(first, request_class.model_fields) from None


def _explain(first: Any, fields: Collection[str]) -> RequestError:
    location = _location(first["loc"])
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {first['ctx']['error']}")
    if not location:
        return RequestError("the body must be a JSON object")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location, fields, n=1)
        message = (
            f"{location} is not a parameter of this endpoint; {f'did you mean {near[0]}?' if near else 'remove it'}"
        )
    elif first["type"] == "not_text":
        location += f"[{first['ctx']['index']}]"
        kind = first["ctx"]["kind"]
        message = f"{location} is a part of type {kind!r}; this model reads only text: send parts of type 'text'"
    elif first["type"] == "missing":
        message = f"{location} is required"
    else:
        message = f"{location} is {_shorten(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return InvalidParameterError(message, parameter=location)


def _location(parts: tuple[int | str, ...]) -> str:
    """`messages[0].content` from pydantic's path; names of union arms (`list[str]`, `str`) are left out."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in {"str", "int", "float", "bool", "StreamOptions", "TextPart"} or "[" in part:
            continue
        else:
            text += f".{part}" if text else part
    return text


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
