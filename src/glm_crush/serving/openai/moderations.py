"""POST /v1/moderations, in OpenAI's shape, over any `Moderator`.

Above: whoever has a moderator adds `moderation_routes` to its routes. Below: the protocol.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError, ModelNotFoundError
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.moderation import Judgement, Moderator
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute

__all__ = ["CATEGORIES", "ModerationRequest", "moderation_routes"]

# OpenAI's. What a moderator does not judge is null: neither true nor false would be.
CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
_MOST_TEXTS = 256


class ModerationRequest(StrictModel):
    """POST /v1/moderations."""

    input: str | Annotated[list[str], Field(min_length=1)] | Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: str | None = None


def moderation_routes(moderator: Moderator) -> list[ApiRoute]:
    """The route, over one moderator."""

    async def create(http: Request) -> Response:
        request = await read_request(ModerationRequest, http)
        if request.model not in (None, "default", moderator.name):
            raise ModelNotFoundError(f"the moderator {request.model!r:.80} is not here; there is {moderator.name}")
        judgements = await moderator.judge(_texts(request))
        reply = {
            "id": f"modr-{uuid.uuid4().hex}",
            "model": moderator.name,
            "results": [_result(judgement) for judgement in judgements],
        }
        return json_response(reply)

    return [(Endpoint("POST", "/v1/moderations", "Judge texts.", ModerationRequest), create)]


def _texts(request: ModerationRequest) -> Sequence[str]:
    """The texts of a request; parts of one input are judged each for itself."""
    given = request.input
    if isinstance(given, str):
        return [given]
    items: Sequence[str | dict[str, Any]] = given
    texts = [item if isinstance(item, str) else _part(item, index) for index, item in enumerate(items)]
    if len(texts) > _MOST_TEXTS:
        raise InvalidParameterError(f"input has {len(texts)} texts; give at most {_MOST_TEXTS}", parameter="input")
    return texts


def _part(part: dict[str, Any], index: int) -> str:
    text = part.get("text")
    if part.get("type") != "text" or not isinstance(text, str) or set(part) != {"type", "text"}:
        raise InvalidParameterError(
            f"input[{index}] is a part of the type {part.get('type')!r:.60}; this server judges texts: "
            'give {"type": "text", "text": ...}',
            parameter=f"input[{index}]",
        )
    return text


def _result(judgement: Judgement) -> dict[str, Any]:
    names = (*CATEGORIES, *(name for name in judgement.scores if name not in CATEGORIES))
    judged = judgement.scores
    return {
        "flagged": bool(judgement.flagged),
        "categories": {name: name in judgement.flagged if name in judged else None for name in names},
        "category_scores": {name: judged.get(name) for name in names},
        "category_applied_input_types": {name: ["text"] if name in judged else [] for name in names},
    }
