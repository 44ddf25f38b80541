"""What OpenAI clients send: every field is honoured, or refused by name; none is silently dropped.

Field names are OpenAI's, then vLLM's for what OpenAI lacks (`top_k`, `min_p`, ...). Types are strict: a
number in quotes is refused, as OpenAI does. `Unsupported` fields exist here so that their neutral value is
accepted and any other value is a 400 that names them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from glm_crush.serving.json_http import StrictModel, only_parts
from glm_crush.serving.openai.effort import Effort

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest"]

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class StreamOptions(StrictModel):
    """`include_usage` adds a last chunk with the token counts; `include_obfuscation` needs nothing from us."""

    include_usage: bool = False
    include_obfuscation: bool = False


class StructuredOutputs(StrictModel):
    """What the reply must look like, as vLLM has it: exactly one of these."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GenerationRequest(StrictModel):
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
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    return_progress: bool | None = None  # llama-server's
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    # ours
    preset: str | None = None
    beam_width: Positive | None = None
    early_stopping: bool | Literal["never"] | None = None
    # identifiers that change nothing in the reply
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class TextPart(StrictModel):
    """One text part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictModel):
    """One message; roles and their order are the chat template's business."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[TextPart] | None, only_parts("text")] = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: None = None
    annotations: list[dict[str, Any]] | None = None
    audio: None = None
    function_call: None = None


class JsonSchemaFormat(StrictModel):
    """A schema with the name that OpenAI wants it to have; `strict` refuses schemas that cannot be enforced whole."""

    name: str = "reply"
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(StrictModel):
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
    context_policy: Literal["refuse", "truncate", "window", "summarise"] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    # neutral values only
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    verbosity: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    web_search_options: dict[str, Any] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Annotated[
        str | list[int] | list[str] | list[list[int]], Field(json_schema_extra={"minLength": 1, "minItems": 1})
    ]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # neutral values only
    suffix: str | None = None
