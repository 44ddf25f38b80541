"""What clients of /v1/responses send: every field is honoured, or refused by name; none is silently dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from glm_crush.serving.json_http import StrictModel
from glm_crush.serving.openai.effort import Effort
from glm_crush.serving.openai.protocol import Positive

__all__ = ["ReasoningWish", "ResponseRequest", "TextWish"]


class ReasoningWish(StrictModel):
    """`effort` turns thinking on or off; `summary` says where the reasoning is shown."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    # neutral values only
    context: str | None = None
    mode: str | None = None


class TextFormat(StrictModel):
    """What the answer must be; `schema` with json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextWish(StrictModel):
    """The form of the answer."""

    format: TextFormat | None = None
    # neutral values only
    verbosity: str | None = None


class ResponseStreamOptions(StrictModel):
    """`include_obfuscation` needs nothing from us."""

    include_obfuscation: bool = False


class ResponseInput(StrictModel):
    """POST /v1/responses/input_tokens: what decides on the prompt of a response."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    reasoning: ReasoningWish | None = None
    text: TextWish | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # neutral values only
    truncation: str | None = None
    conversation: str | dict[str, Any] | None = None


class ResponseRequest(ResponseInput):
    """POST /v1/responses."""

    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    max_output_tokens: Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # as vLLM names them
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    # of built-in tools, of which there are none, and identifiers: these change nothing in the reply
    max_tool_calls: Positive | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # neutral values only
    service_tier: str | None = None
    context_management: list[dict[str, Any]] | None = None
    prompt: dict[str, Any] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    background_options: dict[str, Any] | None = None
    access_programs: dict[str, Any] | None = None
    image: dict[str, Any] | None = None

    @property
    def is_stored(self) -> bool:
        """Stored unless told otherwise."""
        return self.store is not False
