"""Between GraphQL's inputs and the requests that every protocol shares.

Above: `generation.py`, `vectors.py`. Below: the OpenAI requests, whose checks hold here too. A refusal comes back with
the names of the schema (`errors.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from strawberry import UNSET

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.graphql.inputs import (
    ChatInput,
    CompletionInput,
    EarlyStopping,
    EmbeddingInput,
    MessageInput,
    RerankInput,
    ResponseFormatInput,
    SamplingInput,
    ToolChoiceInput,
    ToolInput,
)
from glm_crush.serving.json_http import explained
from glm_crush.serving.openai.embeddings import EmbeddingRequest
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openai.rerank import RerankRequest

__all__ = ["chat_request", "completion_request", "embedding_request", "rerank_request"]

Made = TypeVar("Made", bound=BaseModel)

_STOPPING: Mapping[EarlyStopping, object] = {
    EarlyStopping.YES: True,
    EarlyStopping.NO: False,
    EarlyStopping.NEVER: "never",
}


def chat_request(given: ChatInput) -> ChatRequest:
    """The request of a chat.

    Raises:
        InvalidParameterError: a value that cannot be; names it.
    """
    request = _common(given.model, given.sampling, given.response_format)
    if (alternatives := request.pop("logprobs", None)) is not None:
        request |= {"logprobs": True, "top_logprobs": alternatives}
    variables: Any = given.chat_template_kwargs
    if given.thinking is not None:
        if variables is not None and not isinstance(variables, dict):
            raise InvalidParameterError("chat_template_kwargs is no object", parameter="chat_template_kwargs")
        variables = {**(variables or {}), "enable_thinking": given.thinking}
    policy = given.context_policy
    request |= {
        "messages": [_message(message) for message in given.messages],
        "tools": None if given.tools is None else [_tool(tool) for tool in given.tools],
        "tool_choice": None if given.tool_choice is None else _tool_choice(given.tool_choice),
        "parallel_tool_calls": given.parallel_tool_calls,
        "chat_template_kwargs": variables,
        "add_generation_prompt": given.add_generation_prompt,
        "context_policy": None if policy is None else policy.value,
    }
    return _made(ChatRequest, request)


def completion_request(given: CompletionInput) -> CompletionRequest:
    """The request of a completion. Raises as `chat_request`."""
    if (given.prompt is None) == (given.prompt_token_ids is None):
        raise InvalidParameterError("give either prompt or promptTokenIds", parameter="prompt")
    prompt = given.prompt if given.prompt_token_ids is None else given.prompt_token_ids
    return _made(CompletionRequest, {**_common(given.model, given.sampling, given.response_format), "prompt": prompt})


def embedding_request(given: EmbeddingInput) -> EmbeddingRequest:
    """The request of vectors. Raises as `chat_request`."""
    names = ("model", "dimensions", "input_type", "truncate_prompt_tokens")
    return _made(EmbeddingRequest, {"input": given.texts, **{name: getattr(given, name) for name in names}})


def rerank_request(given: RerankInput) -> RerankRequest:
    """The request of a ranking. Raises as `chat_request`."""
    return _made(RerankRequest, {spec.name: getattr(given, spec.name) for spec in fields(given)})


def _common(model: str | None, sampling: SamplingInput | None, form: ResponseFormatInput | None) -> dict[str, Any]:
    request: dict[str, Any] = {"model": model}
    if sampling is not None:
        request |= {
            spec.name: value for spec in fields(sampling) if (value := getattr(sampling, spec.name)) is not None
        }
        if sampling.logit_bias is not None:
            request["logit_bias"] = _logit_bias(sampling)
        if sampling.early_stopping is not None:
            request["early_stopping"] = _STOPPING[sampling.early_stopping]
    if form is not None:
        request["structured_outputs"] = _form(form)
    return request


def _logit_bias(sampling: SamplingInput) -> dict[str, float]:
    bias: dict[str, float] = {}
    for entry in sampling.logit_bias or ():
        if bias.setdefault(str(entry.token_id), entry.bias) != entry.bias:
            raise InvalidParameterError(
                f"logitBias holds the token {entry.token_id} twice; give it once", parameter="logit_bias"
            )
    return bias


def _form(given: ResponseFormatInput) -> dict[str, Any]:
    if given.json_object is False:
        raise InvalidParameterError("responseFormat.jsonObject is false; leave it out", parameter="responseFormat")
    names = {"json_schema": "json", "json_object": "json_object"}
    values = {spec.name: getattr(given, spec.name) for spec in fields(given)}
    return {names.get(name, name): value for name, value in values.items() if value is not UNSET}


def _message(given: MessageInput) -> dict[str, Any]:
    calls = given.tool_calls
    message = {
        "role": given.role.value,
        "content": given.content,
        "name": given.name,
        "reasoning": given.reasoning,
        "tool_call_id": given.tool_call_id,
        "tool_calls": None if calls is None else [_call(call.id, call.name, call.arguments) for call in calls],
    }
    return {name: value for name, value in message.items() if value is not None}


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(given: ToolInput) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    function = {name: value for name in names if (value := getattr(given, name)) is not None}
    return {"type": "function", "function": function}


def _tool_choice(given: ToolChoiceInput) -> object:
    if given.tool:
        return {"type": "function", "function": {"name": given.tool}}
    return given.mode.value if given.mode else None


def _made(request_class: type[Made], fields_: Mapping[str, Any]) -> Made:
    try:
        return request_class.model_validate(fields_)
    except ValidationError as error:
        raise explained(error, request_class.model_fields) from None
