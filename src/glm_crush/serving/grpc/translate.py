"""Between protobuf messages and the requests that every protocol shares.

Above: `services`. Below: the OpenAI requests, whose checks hold here too; a refusal names the field as the proto does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.types import Usage

Made = TypeVar("Made", bound=BaseModel)

__all__ = ["chat_request", "completion_request", "usage_message"]

_FORMS = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}


def chat_request(message: pb.ChatRequest) -> ChatRequest:
    """The request of a chat.

    Raises:
        InvalidParameterError: a value that cannot be; names the field.
    """
    fields = _common(message)
    fields["messages"] = [{"role": item.role, "content": item.content} for item in message.messages]
    if message.HasField("thinking"):
        fields["chat_template_kwargs"] = {"enable_thinking": message.thinking}
    return _made(ChatRequest, fields)


def completion_request(message: pb.CompleteRequest) -> CompletionRequest:
    """The request of a completion. Raises as `chat_request`."""
    if message.prompt and message.prompt_token_ids:
        raise InvalidParameterError("prompt and prompt_token_ids are given; give one of them", parameter="prompt")
    prompt: object = list(message.prompt_token_ids) if message.prompt_token_ids else message.prompt
    return _made(CompletionRequest, {**_common(message), "prompt": prompt})


def usage_message(usage: Usage, num_reasoning_tokens: int = 0) -> pb.Usage:
    """Token counts."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=num_reasoning_tokens,
    )


def _common(message: pb.ChatRequest | pb.CompleteRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": message.model or None}
    for descriptor, value in message.sampling.ListFields():
        # Repeated fields are sequences of their own kind; pydantic wants lists.
        fields[descriptor.name] = list(value) if descriptor.name in ("stop", "stop_token_ids") else value
    kind = message.form.WhichOneof("form")
    if kind is not None:
        fields["structured_outputs"] = {_FORMS[kind]: _form(kind, getattr(message.form, kind))}
    return fields


def _form(kind: str, text: str) -> object:
    if kind != "json_schema":
        return text
    try:
        schema = from_json(text)
    except ValueError as error:
        raise InvalidParameterError(f"form.json_schema is no JSON: {error}", parameter="form.json_schema") from None
    if not isinstance(schema, dict):
        raise InvalidParameterError("form.json_schema is not an object", parameter="form.json_schema")
    return schema


def _made(request_class: type[Made], fields: Mapping[str, Any]) -> Made:
    try:
        return request_class.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidParameterError(f"{where}: {first['msg']}", parameter=where) from None
