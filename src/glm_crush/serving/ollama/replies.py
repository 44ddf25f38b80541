"""The shapes of Ollama's replies, for the description of the API.

Above: the routes. Below: nothing. Real replies are held against these by `make conformance`. Of a stream each line has
the shape of the whole reply; what is only known at its end is only in the last one.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

__all__ = ["Chat", "EmbeddingVector", "Embeddings", "Generated", "ModelDetails", "Models", "Progress", "Version"]


class Timings(TypedDict):
    """What a finished reply took, in nanoseconds and tokens."""

    done_reason: NotRequired[str]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class Chat(Timings):
    """A reply to a conversation."""

    model: str
    created_at: str
    message: dict[str, Any]
    done: bool


class Generated(Timings):
    """A reply to a prompt."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: NotRequired[str]
    context: NotRequired[list[int]]


class Embeddings(TypedDict):
    """A vector for each text."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingVector(TypedDict):
    """The vector of one text."""

    embedding: list[float]


class ListedModel(TypedDict):
    """A model in a list."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: dict[str, Any]


class Models(TypedDict):
    """The models there are, or those that are loaded."""

    models: list[ListedModel]


class ModelDetails(TypedDict):
    """One model."""

    modelfile: str
    parameters: str
    template: str
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Progress(TypedDict):
    """How far work on a model is; the last one says success."""

    status: str


class Version(TypedDict):
    """The installed version."""

    version: str
