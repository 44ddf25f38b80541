"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import ModelNotFoundError
from glm_crush.serving.json_http import json_response
from glm_crush.serving.model_pool.resident import LoadableModel
from glm_crush.serving.served_encoder import ServedEncoder
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels

__all__ = ["Models", "model_cards"]


class Models:
    """The routes that say what is served."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def list(self, http: Request) -> Response:
        """Every model that can be asked."""
        cards = [_as_asked(http, card) for card in model_cards(self._models)]
        ends = (
            {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]} if cards else {"first_id": None, "last_id": None}
        )
        return json_response({"object": "list", "data": cards, "has_more": False, **ends})

    async def retrieve(self, http: Request) -> Response:
        """One model; 404 if it is not served."""
        name = http.path_params["model_id"]
        if not name:  # elsewhere the default model has no name; here it would be a card that nobody asked for
            raise ModelNotFoundError("the path ends without a name of a model; GET /v1/models lists them")
        for encoder in self._models.encoders:
            if encoder.name == name:
                return json_response(_as_asked(http, _encoder_card(encoder)))
        for model in self._models.not_loaded():
            if model.name == name:
                return json_response(_as_asked(http, _stored_card(self._models, model)))
        return json_response(_as_asked(http, _model_card(await self._models.find(name))))


def _as_asked(http: Request, card: dict[str, Any]) -> dict[str, Any]:
    """The card; in Anthropic's form for its clients, whose `capabilities` are objects where ours are true or false."""
    if "anthropic-version" not in http.headers:
        return card
    can = card["capabilities"].get("structured_outputs", False)
    never = ("batch", "citations", "code_execution", "image_input", "pdf_input")
    capabilities = {"structured_outputs": {"supported": can}, **{name: {"supported": False} for name in never}}
    same = {name: card[name] for name in ("id", "type", "display_name", "created_at")}
    length = card["max_model_len"]
    return {**same, "max_input_tokens": length, "max_tokens": length, "capabilities": capabilities}


def model_cards(models: ServedModels) -> list[dict[str, Any]]:
    """Of every model that can be asked, as `/v1/models` lists them: the loaded ones first, then those on demand."""
    cards = [_model_card(model) for model in models]
    cards += [_encoder_card(encoder) for encoder in models.encoders]
    return cards + [_stored_card(models, model) for model in models.not_loaded()]


def _stored_card(models: ServedModels, model: LoadableModel) -> dict[str, Any]:
    """What is known of a model that is not in memory."""
    kind = models.pool.kind(model.name)
    capabilities = {} if kind is None else {"completion": kind == "chat", "chat": kind == "chat"}
    if kind in ("embedding", "reranker"):
        capabilities |= {"embeddings": kind == "embedding", "rerank": True}
    is_loading = models.pool.residency.get(model.name) is not None
    card = _fields(model.name, model.created, None, capabilities)
    return {**card, "status": {"value": "loading" if is_loading else "unloaded"}}


def _model_card(model: ServedModel) -> dict[str, Any]:
    """OpenAI's four fields, vLLM's, what may be asked of the model, and what Anthropic's clients read beside them."""
    replies = model.replies
    capabilities = {
        "completion": True,
        "chat": model.codec.chat_template is not None,
        "tools": replies is not None and model.codec.chat_template is not None,
        "reasoning": replies is not None and replies.markers.can_reason,
        "structured_outputs": model.grammars is not None,
    }
    card = _fields(model.name, model.created, model.context_length, capabilities)
    return card if model.adapter is None else {**card, "root": model.root, "parent": model.parent}


def _encoder_card(encoder: ServedEncoder) -> dict[str, Any]:
    """The same for an embedding model or a reranker; `dimensions` of its vectors."""
    embeds = encoder.task == "embed"
    capabilities = {"completion": False, "chat": False, "embeddings": embeds, "rerank": embeds or encoder.is_reranker}
    card = _fields(encoder.name, encoder.created, encoder.encoder.max_length, capabilities)
    return {**card, "dimensions": encoder.encoder.runner.width} if embeds else card


def _fields(name: str, created: int, length: int | None, capabilities: dict[str, bool]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "glm-crush",
        "root": name,
        "parent": None,
        "max_model_len": length,
        "capabilities": capabilities,
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "status": {"value": "loaded"},
    }
