"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.serving.json_http import json_response
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels

__all__ = ["Models"]


class Models:
    """The routes that say what is served."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def list(self, _: Request) -> Response:
        """Every served model."""
        return json_response({"object": "list", "data": [_card(model) for model in self._models], "has_more": False})

    async def retrieve(self, http: Request) -> Response:
        """One model; 404 if it is not served."""
        return json_response(_card(await self._models.find(http.path_params["model_id"])))


def _card(model: ServedModel) -> dict[str, Any]:
    """OpenAI's four fields, vLLM's, what may be asked of the model, and what Anthropic's clients read beside them."""
    replies = model.replies
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "glm-crush",
        "root": model.name,
        "parent": None,
        "max_model_len": model.context_length,
        "capabilities": {
            "completion": True,
            "chat": model.codec.chat_template is not None,
            "tools": replies is not None and model.codec.chat_template is not None,
            "reasoning": replies is not None and replies.markers.can_reason,
            "structured_outputs": model.grammars is not None,
        },
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z"),
    }
