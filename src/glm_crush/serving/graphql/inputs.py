"""What clients give: messages, sampling, tools, forms of replies.

Above: the schema. Below: Strawberry. Names are those of the OpenAI API and of vLLM in GraphQL's spelling; what they
mean and what is refused is decided where every protocol's requests are read (`translate.py`).
"""

from __future__ import annotations

from enum import Enum

import strawberry
from strawberry.scalars import JSON

from glm_crush.serving.graphql.scalars import BigInt

__all__ = [
    "ChatInput",
    "CompletionInput",
    "ContextPolicy",
    "EarlyStopping",
    "EmbeddingInput",
    "LogitBiasInput",
    "MessageInput",
    "RerankInput",
    "ResponseFormatInput",
    "Role",
    "SamplingInput",
    "ToolCallInput",
    "ToolChoiceInput",
    "ToolInput",
    "ToolMode",
]


@strawberry.enum(description="Who speaks.")
class Role(Enum):
    """In the words of chat templates."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@strawberry.enum(description="What becomes of a conversation that is longer than the context.")
class ContextPolicy(Enum):
    """As `crush.context_policy`."""

    REFUSE = "refuse"
    TRUNCATE = "truncate"
    WINDOW = "window"
    SUMMARISE = "summarise"


@strawberry.enum(description="When a beam search ends.")
class EarlyStopping(Enum):
    """As `SamplingParams.early_stopping`."""

    YES = "yes"
    NO = "no"
    NEVER = "never"


@strawberry.enum(description="Whether tools are called.")
class ToolMode(Enum):
    """As OpenAI's `tool_choice`."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@strawberry.input(description="Added to the logit of one token.")
class LogitBiasInput:
    """One entry of OpenAI's `logit_bias`."""

    token_id: int
    bias: float


@strawberry.input(description="How tokens are chosen; what is left out is the model's own default.")
class SamplingInput:
    """The sampling parameters of every protocol."""

    max_tokens: int | None = strawberry.field(default=None, description="Longest reply.")
    temperature: float | None = strawberry.field(default=None, description="0 is greedy.")
    top_p: float | None = strawberry.field(default=None, description="Smallest set of tokens with this mass.")
    top_k: int | None = strawberry.field(default=None, description="The k likeliest tokens; 0 is all.")
    min_p: float | None = strawberry.field(default=None, description="Drop tokens below this share of the likeliest.")
    typical_p: float | None = strawberry.field(default=None, description="Locally typical mass.")
    n: int | None = strawberry.field(default=None, description="Replies to draw.")
    seed: BigInt | None = strawberry.field(default=None, description="Fixes what is drawn.")
    stop: list[str] | None = strawberry.field(default=None, description="Texts that end the reply.")
    stop_token_ids: list[int] | None = strawberry.field(default=None, description="Tokens that end the reply.")
    min_tokens: int | None = strawberry.field(default=None, description="No stop before so many tokens.")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: list[LogitBiasInput] | None = None
    ignore_eos: bool | None = strawberry.field(default=None, description="Do not stop at the model's end of text.")
    skip_special_tokens: bool | None = None
    logprobs: int | None = strawberry.field(
        default=None, description="Log-probabilities of the reply's tokens, with so many alternatives each (0 to 20)."
    )
    prompt_logprobs: int | None = strawberry.field(
        default=None, description="The same for the prompt; not in subscriptions."
    )
    preset: str | None = strawberry.field(default=None, description="chat, code, creative, precise or default.")
    use_beam_search: bool | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None


@strawberry.input(description="A call that the assistant made earlier.")
class ToolCallInput:
    """One of a message's `tool_calls`."""

    id: str
    name: str
    arguments: str = strawberry.field(description="JSON text.")


@strawberry.input(description="One message of a conversation.")
class MessageInput:
    """One message."""

    role: Role
    content: str | None = None
    name: str | None = None
    reasoning: str | None = strawberry.field(default=None, description="What the assistant thought before its answer.")
    tool_call_id: str | None = strawberry.field(default=None, description="Of a tool's message: what it answers.")
    tool_calls: list[ToolCallInput] | None = None


@strawberry.input(description="A function that the model may call.")
class ToolInput:
    """One of OpenAI's `tools`."""

    name: str
    description: str | None = None
    parameters: JSON | None = strawberry.field(default=None, description="JSON schema of its arguments.")
    strict: bool | None = None


@strawberry.input(one_of=True, description="Whether tools are called, or which one must be.")
class ToolChoiceInput:
    """OpenAI's `tool_choice`."""

    mode: ToolMode | None = strawberry.UNSET
    tool: str | None = strawberry.UNSET


@strawberry.input(one_of=True, description="What the answer must look like; it is held to it, to the letter.")
class ResponseFormatInput:
    """vLLM's `structured_outputs`."""

    json_schema: JSON | None = strawberry.field(default=strawberry.UNSET, description="JSON that a schema accepts.")
    json_object: bool | None = strawberry.field(default=strawberry.UNSET, description="true: any JSON object.")
    regex: str | None = strawberry.UNSET
    choice: list[str] | None = strawberry.field(default=strawberry.UNSET, description="One of these texts.")
    grammar: str | None = strawberry.field(default=strawberry.UNSET, description="Lark.")


@strawberry.input(description="A conversation to be answered.")
class ChatInput:
    """What `chat` takes."""

    messages: list[MessageInput]
    model: str | None = strawberry.field(default=None, description="Left out: the default one.")
    sampling: SamplingInput | None = None
    tools: list[ToolInput] | None = None
    tool_choice: ToolChoiceInput | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatInput | None = None
    thinking: bool | None = strawberry.field(default=None, description="Whether to reason, for models that can.")
    max_reasoning_tokens: int | None = strawberry.field(default=None, description="Then the answer begins.")
    prefill: str | None = strawberry.field(default=None, description="How the reply begins already.")
    chat_template_kwargs: JSON | None = strawberry.field(default=None, description="Switches of the chat template.")
    add_generation_prompt: bool | None = None
    context_policy: ContextPolicy | None = None


@strawberry.input(description="A text to be gone on with.")
class CompletionInput:
    """What `complete` takes."""

    prompt: str | None = strawberry.field(default=None, description="Either this or promptTokenIds.")
    prompt_token_ids: list[int] | None = None
    model: str | None = strawberry.field(default=None, description="Left out: the default one.")
    sampling: SamplingInput | None = None
    response_format: ResponseFormatInput | None = None


@strawberry.input(description="Texts to be turned into vectors.")
class EmbeddingInput:
    """What `embed` takes."""

    texts: list[str]
    model: str | None = strawberry.field(default=None, description="Left out: the default one.")
    dimensions: int | None = strawberry.field(default=None, description="Of the vectors, if fewer than the model's.")
    input_type: str | None = strawberry.field(default=None, description="query or document, for models that ask.")
    truncate_prompt_tokens: int | None = strawberry.field(
        default=None, description="Longer texts are cut to so many tokens; -1: to what the model takes."
    )


@strawberry.input(description="Documents to be put in order.")
class RerankInput:
    """What `rerank` takes."""

    query: str
    documents: list[str]
    model: str | None = strawberry.field(default=None, description="Left out: the default one.")
    top_n: int | None = strawberry.field(default=None, description="Only the best.")
    truncation: bool | None = strawberry.field(default=None, description="false: refuse what is too long.")
    max_tokens_per_doc: int | None = None
