"""The routes of the OpenAI API.

Above: `app.py`. Below: one module for each route.
"""

from __future__ import annotations

from glm_crush.config import ApiSettings
from glm_crush.serving.openai.chat import ChatCompletions
from glm_crush.serving.openai.completions import Completions
from glm_crush.serving.openai.embeddings import embedding_routes
from glm_crush.serving.openai.models import Models
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openai.replies import ChatCompletion, Completion, ModelCard, ModelList
from glm_crush.serving.openai.rerank import rerank_routes
from glm_crush.serving.openai.tokenize import tokenize_routes
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

__all__ = ["openai_routes"]


def openai_routes(models: ServedModels, settings: ApiSettings) -> list[ApiRoute]:
    """What OpenAI's clients call."""
    catalogue = Models(models)
    chat = ChatCompletions(models, ping_interval_seconds=settings.ping_interval_seconds)
    completions = Completions(models, ping_interval_seconds=settings.ping_interval_seconds)
    return [
        (
            Endpoint("POST", "/v1/chat/completions", "Answer a conversation.", ChatRequest, True, reply=ChatCompletion),
            chat.create,
        ),
        (
            Endpoint("POST", "/v1/completions", "Complete prompts.", CompletionRequest, True, reply=Completion),
            completions.create,
        ),
        (Endpoint("GET", "/v1/models", "The models served.", reply=ModelList), catalogue.list),
        (Endpoint("GET", "/v1/models/{model_id}", "One model.", reply=ModelCard), catalogue.retrieve),
        *embedding_routes(models.encoders),
        *rerank_routes(models.encoders),
        *tokenize_routes(models),
    ]
