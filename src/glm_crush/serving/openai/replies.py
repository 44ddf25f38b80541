"""The shapes of OpenAI's replies, for the description of the API; the adapters build them as plain dictionaries.

Above: the routes. Below: nothing. Real replies are held against these by `make conformance`, so a field that is left
out or has another type is found.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

__all__ = [
    *("Batch", "BatchPage", "ChatCompletion", "Completion", "Deleted", "DetokenizedText", "Embeddings", "File"),
    *(
        "FilePage",
        "InputItemPage",
        "ModelCard",
        "ModelList",
        "PAGE_QUERY",
        "Ranking",
        "RenderedPrompt",
        "ResponseObject",
    ),
    *("Scores", "TokenizedPrompt"),
]

PAGE_QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "order": {"enum": ["asc", "desc"]},
}
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]


class PromptTokensDetails(TypedDict):
    """Of the prompt."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """Of the reply."""

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CacheUsage(TypedDict):
    """Where and why a prompt left what was cached, with `glm serve --explain-cache`."""

    cached_tokens: int
    prompt_tokens: int
    reason: Literal["complete", "new", "evicted", "diverged"]
    position: int
    before: str
    token: str
    after: str
    explanation: str


class Usage(TypedDict):
    """Tokens read and written."""

    cache: NotRequired[CacheUsage]

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class FunctionCall(TypedDict):
    """A function and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(TypedDict):
    """What the model said, thought and called."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One of `n` replies."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """A whole chat reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[list[dict[str, Any] | None]]


class CompletionChoice(TypedDict):
    """One of `n` continuations of one of the prompts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    prompt_logprobs: NotRequired[list[dict[str, Any] | None]]


class Completion(TypedDict):
    """Whole continuations."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(TypedDict):
    """A model, for clients of OpenAI's, vLLM's and Anthropic's API."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int | None
    capabilities: dict[str, bool]
    type: Literal["model"]
    display_name: str
    created_at: str
    dimensions: NotRequired[int]


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelCard]
    has_more: bool
    first_id: str | None
    last_id: str | None


class EmbeddingRow(TypedDict):
    """The vector of one text, as numbers or as base64 of little-endian floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class PromptUsage(TypedDict):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """A vector for each text."""

    object: Literal["list"]
    data: list[EmbeddingRow]
    model: str
    usage: PromptUsage


class RankingRow(TypedDict):
    """A document's place in what was sent, and how well it answers."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, str]]


class Ranking(TypedDict):
    """Documents, the best first."""

    id: str
    created: int
    model: str
    method: str
    usage: PromptUsage
    results: list[RankingRow]
    meta: dict[str, Any]


class ScoreRow(TypedDict):
    """How well a pair of texts goes together."""

    index: int
    object: Literal["score"]
    score: float


class Scores(TypedDict):
    """A score for each pair."""

    id: str
    created: int
    model: str
    method: str
    usage: PromptUsage
    object: Literal["list"]
    data: list[ScoreRow]


class TokenizedPrompt(TypedDict):
    """Token ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(TypedDict):
    """Text of token ids."""

    prompt: str


class RenderedPrompt(TypedDict):
    """What the engine would get."""

    request_id: str
    model: str
    token_ids: list[int]
    prompt: str
    features: None
    sampling_params: dict[str, Any]


class ResponseObject(TypedDict):
    """A response, whole or under way."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: list[dict[str, Any]]
    previous_response_id: str | None
    metadata: dict[str, str]
    usage: dict[str, Any] | None


class InputItemPage(TypedDict):
    """What a response was made from."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(TypedDict):
    """The length of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Deleted(TypedDict):
    """Something is gone."""

    id: str
    object: str
    deleted: Literal[True]


class File(TypedDict):
    """A stored file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None


class FilePage(TypedDict):
    """Some of the files."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Batch(TypedDict):
    """A batch and how far it is."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    request_counts: dict[str, int]
    usage: dict[str, Any]
    metadata: dict[str, str] | None


class BatchPage(TypedDict):
    """Some of the batches."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
