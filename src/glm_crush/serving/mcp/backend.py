"""Where the tools' work is done: the routes of this process, or a server elsewhere.

Above: `tools`. Below: the in-process caller, or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from glm_crush.client import AsyncClient
from glm_crush.errors import GlmError
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.openai.models import model_cards
from glm_crush.serving.served_models import ServedModels

__all__ = ["Answer", "Backend", "HttpBackend", "InProcessBackend"]


_REFUSED = 503


@dataclass(frozen=True)
class Answer:
    """Status and JSON body of a reply."""

    status: int
    body: Any


class Backend(Protocol):
    """What tools need: the HTTP API of a server."""

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Post a JSON object; refusals are answers too."""
        ...

    async def models(self) -> Answer:
        """GET /v1/models."""
        ...


class InProcessBackend:
    """The routes of this process, on behalf of whoever asks."""

    def __init__(self, models: ServedModels, caller: InProcessCaller) -> None:
        self._models = models
        self._caller = caller

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Through the route's own handler, as part of the request that calls the tool."""
        admission = current_admission()
        key_id = None if admission is None else admission.grant.key_id
        reply = await self._caller.post(path, json.dumps(body).encode(), key_id=key_id, holds_slot=True)
        return Answer(reply.status, reply.body)

    async def models(self) -> Answer:
        """As the route lists them."""
        return Answer(200, {"object": "list", "data": model_cards(self._models)})


class HttpBackend:
    """A running server."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Over HTTP; a refusal, or a server that cannot be reached, is an answer that says so."""
        return await self._ask("POST", path, body)

    async def models(self) -> Answer:
        """Over HTTP."""
        return await self._ask("GET", "/v1/models", None)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        try:
            return Answer(200, await self._client.request(method, path, body, repeatable=True))
        except GlmError as error:
            return Answer(_REFUSED, {"error": {"message": str(error)}})
