"""What Anthropic's clients send: every field is honoured, or refused by name; none is silently dropped.

Fields that only mean something at Anthropic's (containers, regions, workspaces) exist here so that their neutral value
is accepted and any other is a 400 that names them. `cache_control` asks for what always happens: prompts that begin
alike are computed once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from glm_crush.serving.json_http import StrictModel, only_parts

__all__ = [
    "AssistantMessage",
    "ContextManagement",
    "Conversation",
    "CountTokensRequest",
    "CreateMessageRequest",
    "OutputConfig",
    "TextBlock",
    "ThinkingBlock",
    "ThinkingConfig",
    "ToolChoice",
    "ToolDefinition",
    "ToolResultBlock",
    "ToolUseBlock",
]


class CacheControl(StrictModel):
    """A mark up to which the prompt may be kept; prefixes are kept by themselves here."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(StrictModel):
    """Text; `citations` and `parsed_output` are what a reply that is sent back may hold."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed_output: Any = None


class ThinkingBlock(StrictModel):
    """Reasoning of an earlier turn; with its text left out, the signature holds it."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class Caller(StrictModel):
    """Who called a tool: the model itself."""

    type: Literal["direct"]


class ToolUseBlock(StrictModel):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Caller | None = None
    toolset_name: None = None


class ToolResultBlock(StrictModel):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[str | list[TextBlock] | None, only_parts("text")] = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class UserMessage(StrictModel):
    """Text, and results of calls."""

    role: Literal["user"]
    content: Annotated[str | list[UserBlock], only_parts("text", "tool_result")]


class AssistantMessage(StrictModel):
    """An earlier reply, or the beginning of this one."""

    role: Literal["assistant"]
    content: Annotated[str | list[AssistantBlock], only_parts("text", "thinking", "tool_use")]


class SystemMessage(StrictModel):
    """Instructions in the middle of a conversation."""

    role: Literal["system"]
    content: Annotated[str | list[TextBlock], only_parts("text")]


AnyMessage = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]


class ThinkingConfig(StrictModel):
    """Whether the model reasons; the budget is the most tokens it may do so for."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class ToolDefinition(StrictModel):
    """A function that the model may call."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None  # input is always streamed as it comes
    input_examples: list[dict[str, Any]] | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class ToolChoice(StrictModel):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class JsonFormat(StrictModel):
    """A schema that the answer keeps to the letter."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    """The form of the answer; `effort` is the usual one."""

    effort: str | None = None
    format: JsonFormat | None = None


class Metadata(StrictModel):
    """An identifier that changes nothing in the reply."""

    user_id: str | None = None


class ContextEdit(StrictModel):
    """What Anthropic's service takes out of a context; keeping all the thinking takes nothing out."""

    type: str
    keep: Any = None


class ContextManagement(StrictModel):
    """Edits of the context."""

    edits: list[ContextEdit] = Field(default_factory=list)


class Conversation(StrictModel):
    """What messages and the counting of their tokens share."""

    model: str
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=100_000)]
    system: Annotated[str | list[TextBlock] | None, only_parts("text")] = None
    thinking: ThinkingConfig | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    # neutral values only
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    mcp_servers: list[dict[str, Any]] | None = None
    context_management: ContextManagement | None = None


class CreateMessageRequest(Conversation):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    # neutral values only
    container: str | dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    inference_geo: str | None = None


class CountTokensRequest(Conversation):
    """POST /v1/messages/count_tokens."""
