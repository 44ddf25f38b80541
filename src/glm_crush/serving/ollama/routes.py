"""The routes of Ollama's API.

Above: `app.py`. Below: one module for each group of routes.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from glm_crush.serving.errors import ErrorShape
from glm_crush.serving.ollama.catalogue import Catalogue
from glm_crush.serving.ollama.embed import Embedding
from glm_crush.serving.ollama.generation import Generation
from glm_crush.serving.ollama.protocol import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    PullRequest,
    ShowRequest,
)
from glm_crush.serving.ollama.replies import (
    Chat,
    Embeddings,
    EmbeddingVector,
    Generated,
    ModelDetails,
    Models,
    Progress,
    Version,
)
from glm_crush.serving.ollama.reply import ollama_error
from glm_crush.serving.ollama.stored import StoredModels
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels
from glm_crush.weights.store import ModelStore

__all__ = ["OLLAMA_ERRORS", "ollama_routes"]

OLLAMA_ERRORS: dict[str, ErrorShape] = {"/api/": ollama_error}


def ollama_routes(models: ServedModels, store: ModelStore | None) -> list[ApiRoute]:
    """What Ollama's clients call."""
    embedding = Embedding(models)
    generation, catalogue, stored = Generation(models), Catalogue(models, store), StoredModels(models, store)
    return [
        (
            _endpoint("POST", "chat", "Answer as Ollama does.", Chat, ChatRequest, streams=True),
            generation.chat,
        ),
        (
            _endpoint("POST", "generate", "Answer a prompt.", Generated, GenerateRequest, streams=True),
            generation.generate,
        ),
        (_endpoint("POST", "embed", "Vectors of texts.", Embeddings, EmbedRequest), embedding.embed),
        (
            _endpoint("POST", "embeddings", "The vector of one text.", EmbeddingVector, EmbeddingsRequest),
            embedding.embeddings,
        ),
        (_endpoint("GET", "tags", "The models on this machine.", Models), catalogue.tags),
        (_endpoint("GET", "ps", "The models that are loaded.", Models), catalogue.ps),
        (_endpoint("GET", "version", "The installed version.", Version), catalogue.version),
        (_endpoint("POST", "show", "One model.", ModelDetails, ShowRequest), catalogue.show),
        (_endpoint("POST", "pull", "Fetch a model.", Progress, PullRequest, streams=True), stored.pull),
        (
            _endpoint("POST", "create", "Name a model, with defaults.", Progress, CreateRequest, streams=True),
            stored.create,
        ),
        (_endpoint("POST", "copy", "Give a model a second name.", None, CopyRequest), stored.copy),
        (Endpoint("GET", "/", "The server runs.", reply=str, media_type="text/plain"), catalogue.alive),
        (_endpoint("DELETE", "delete", "Remove a model.", None, DeleteRequest), stored.delete),
    ]


def _endpoint(
    method: str, name: str, summary: str, reply: Any, body: type[BaseModel] | None = None, *, streams: bool = False
) -> Endpoint:
    return Endpoint(method, f"/api/{name}", summary, body, streams, "ollama", reply)
