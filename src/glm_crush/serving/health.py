"""GET /health (the process lives), /ready (it can answer), /version."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import NotRequired

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from glm_crush.serving.json_http import json_response
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.stopping import Stopping

__all__ = ["Health", "health_routes"]


class _Status(TypedDict):
    """Whether it is, and which models are there or have stopped."""

    status: str
    models: NotRequired[list[str]]
    stopped: NotRequired[list[str]]


class _Version(TypedDict):
    """Of the package."""

    version: str


def health_routes(models: ServedModels, stopping: Stopping | None = None) -> list[ApiRoute]:
    """The probes; `stopping` knows whether the server is about to end."""
    health = Health(models, stopping)
    return [
        (Endpoint("GET", "/health", "The process answers.", reply=_Status), health.health),
        (
            Endpoint(
                "GET", "/ready", "Requests can be answered; 503 otherwise.", reply=_Status, may_be_unavailable=True
            ),
            health.ready,
        ),
        (Endpoint("GET", "/version", "The installed version.", reply=_Version), health.version),
    ]


class Health:
    """Probes for supervisors and load balancers; they need no key."""

    def __init__(self, models: ServedModels, stopping: Stopping | None = None) -> None:
        self._models = models
        self._stopping = stopping

    async def health(self, _: Request) -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Every engine can take requests, and the server is there to stay; 503 otherwise."""
        if self._stopping is not None and self._stopping.is_stopping:
            return json_response({"status": "stopping"}, status=503)
        stopped = [model.name for model in self._models if not model.engine.is_alive]
        stopped += [encoder.name for encoder in self._models.encoders if not encoder.is_alive]
        if stopped:
            return json_response({"status": "not ready", "stopped": stopped}, status=503)
        names = [model.name for model in self._models] + [encoder.name for encoder in self._models.encoders]
        return json_response({"status": "ready", "models": names})

    async def version(self, _: Request) -> Response:
        """The installed version."""
        return json_response({"version": installed_version("glm-crush")})
