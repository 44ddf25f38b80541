"""What clients get: replies, what a stream adds to them, vectors, rankings, models.

Above: the schema. Below: Strawberry; nothing of how replies are made.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import strawberry
from strawberry.scalars import JSON

from glm_crush.serving.graphql.inputs import ContextPolicy
from glm_crush.serving.graphql.scalars import TokenIds, Vector

__all__ = [
    "Capabilities",
    "ChatChoice",
    "ChatDelta",
    "ChatReply",
    "Completion",
    "CompletionChoice",
    "CompletionDelta",
    "ContextNote",
    "Embeddings",
    "FinishReason",
    "Model",
    "Ranked",
    "Ranking",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]

_LOGPROBS = "[{token, logprob, bytes, top_logprobs}], as in the OpenAI API; null unless asked for."
_PROMPT_LOGPROBS = "[null, {id: {logprob, rank, decoded_token}}], as vLLM has them; null unless asked for."


@strawberry.enum(description="Why a reply ended.")
class FinishReason(Enum):
    """The reasons of the neutral turn."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@strawberry.type(description="Token counts, over all replies of one generation.")
class Usage:
    """OpenAI's `usage`, flat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = strawberry.field(description="Of the prompt, not computed again.")
    reasoning_tokens: int
    accepted_prediction_tokens: int = strawberry.field(description="Guessed ahead, and right.")
    rejected_prediction_tokens: int = strawberry.field(description="Guessed ahead in vain.")


@strawberry.type(description="What was done to a conversation that was longer than the context.")
class ContextNote:
    """See `types.ContextNote`."""

    policy: ContextPolicy
    context_length: int
    prompt_tokens_before: int
    prompt_tokens: int
    dropped_messages: list[int]
    shortened_message: int | None
    summary: str | None


@strawberry.type(description="A call to one of the tools.")
class ToolCall:
    """One call."""

    id: str
    name: str
    arguments: str = strawberry.field(description="JSON text; cut off if the reply was.")


@strawberry.type(description="One of the replies to a conversation.")
class ChatChoice:
    """One reply."""

    index: int
    content: str
    reasoning: str
    tool_calls: list[ToolCall]
    finish_reason: FinishReason
    stop_reason: str | None = strawberry.field(description="The text or token id that ended it.")
    logprobs: JSON | None = strawberry.field(description=_LOGPROBS)


@strawberry.type(description="An answered conversation.")
class ChatReply:
    """What `chat` gives as a mutation."""

    id: strawberry.ID
    created: datetime
    model: str
    choices: list[ChatChoice]
    usage: Usage
    context: ContextNote | None = strawberry.field(description="null: nothing was left out.")
    prompt_logprobs: JSON | None = strawberry.field(description=_PROMPT_LOGPROBS)


@strawberry.type(description="What is new of a call: a name begins one.")
class ToolCallDelta:
    """A part of a call."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@strawberry.type(description="What one step added to one of the replies.")
class ChatDelta:
    """What `chat` gives as a subscription."""

    id: strawberry.ID
    model: str
    index: int = strawberry.field(description="Of the reply.")
    content: str
    reasoning: str
    tool_calls: list[ToolCallDelta]
    logprobs: JSON | None = strawberry.field(description=_LOGPROBS)
    finish_reason: FinishReason | None = strawberry.field(description="In the last delta of a reply.")
    stop_reason: str | None
    usage: Usage | None = strawberry.field(description="With a finishReason: so far, over all replies.")
    context: ContextNote | None = strawberry.field(description="With a finishReason.")


@strawberry.type(description="One of the continuations of a text.")
class CompletionChoice:
    """One continuation."""

    index: int
    text: str
    token_ids: TokenIds
    finish_reason: FinishReason
    stop_reason: str | None = strawberry.field(description="The text or token id that ended it.")
    logprobs: JSON | None = strawberry.field(description=_LOGPROBS)
    score: float | None = strawberry.field(description="What beam search ranked it by.")


@strawberry.type(description="A text gone on with.")
class Completion:
    """What `complete` gives as a mutation."""

    id: strawberry.ID
    created: datetime
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    prompt_logprobs: JSON | None = strawberry.field(description=_PROMPT_LOGPROBS)


@strawberry.type(description="What one step added to one of the continuations.")
class CompletionDelta:
    """What `complete` gives as a subscription."""

    id: strawberry.ID
    model: str
    index: int = strawberry.field(description="Of the continuation.")
    text: str
    token_ids: TokenIds
    logprobs: JSON | None = strawberry.field(description=_LOGPROBS)
    finish_reason: FinishReason | None = strawberry.field(description="In the last delta of a continuation.")
    stop_reason: str | None
    usage: Usage | None = strawberry.field(description="With a finishReason: so far, over all continuations.")


@strawberry.type(description="Vectors, in the order of their texts.")
class Embeddings:
    """What `embed` gives."""

    model: str
    dimensions: int
    vectors: list[Vector]
    prompt_tokens: int


@strawberry.type(description="A document and how well it answers the query.")
class Ranked:
    """One line of a ranking."""

    index: int = strawberry.field(description="Among the documents given.")
    relevance_score: float
    document: str


@strawberry.type(description="Documents, best first.")
class Ranking:
    """What `rerank` gives."""

    model: str
    method: str = strawberry.field(description="cross-encoder, or cosine where there is none.")
    results: list[Ranked]
    prompt_tokens: int


@strawberry.type(description="What may be asked of a model.")
class Capabilities:
    """Of one model."""

    completion: bool
    chat: bool
    tools: bool
    reasoning: bool
    structured_outputs: bool
    embeddings: bool
    rerank: bool


@strawberry.type(description="A model that is served.")
class Model:
    """One model."""

    name: str
    created: datetime
    is_loaded: bool = strawberry.field(description="Otherwise a request that names it loads it.")
    context_length: int | None = strawberry.field(description="Null until it is loaded.")
    capabilities: Capabilities | None = strawberry.field(description="Null until it has been loaded once.")
    dimensions: int | None = strawberry.field(description="Of an embedding model's vectors.")
    root: str = strawberry.field(description="What it is made of, itself if it is no adapter.")
    parent: str | None = strawberry.field(description="Of an adapter: the model that it changes.")
