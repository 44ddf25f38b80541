"""The routes of Anthropic's API.

Above: `app.py`. Below: the Messages API.
"""

from __future__ import annotations

from glm_crush.config import ApiSettings
from glm_crush.serving.anthropic.errors import anthropic_error
from glm_crush.serving.anthropic.messages import Messages
from glm_crush.serving.anthropic.protocol import CountTokensRequest, CreateMessageRequest
from glm_crush.serving.anthropic.replies import MessageReply, TokenCount
from glm_crush.serving.errors import ErrorShape
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

__all__ = ["ANTHROPIC_ERRORS", "anthropic_routes"]

_PATH = "/v1/messages"
ANTHROPIC_ERRORS: dict[str, ErrorShape] = {_PATH: anthropic_error}


def anthropic_routes(models: ServedModels, settings: ApiSettings) -> list[ApiRoute]:
    """What Anthropic's clients call."""
    messages = Messages(models, ping_interval_seconds=settings.ping_interval_seconds)
    create = Endpoint("POST", _PATH, "Answer as Anthropic does.", CreateMessageRequest, True, "anthropic", MessageReply)
    count = Endpoint(
        "POST",
        f"{_PATH}/count_tokens",
        "Count a prompt's tokens.",
        CountTokensRequest,
        dialect="anthropic",
        reply=TokenCount,
    )
    return [(create, messages.create), (count, messages.count_tokens)]
