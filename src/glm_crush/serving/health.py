"""GET /health (the process lives), /ready (it can answer), /version."""

from __future__ import annotations

from importlib.metadata import version as installed_version

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.serving.openai.exchange import json_response
from glm_crush.serving.served_model import ServedModel

__all__ = ["Health"]


class Health:
    """Probes for supervisors and load balancers; they need no key."""

    def __init__(self, models: dict[str, ServedModel]) -> None:
        self._models = models

    async def health(self, _: Request) -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Every engine can take requests; 503 otherwise."""
        stopped = [model.name for model in self._models.values() if not model.engine.is_alive]
        if stopped:
            return json_response({"status": "not ready", "stopped": stopped}, status=503)
        return json_response({"status": "ready", "models": list(self._models)})

    async def version(self, _: Request) -> Response:
        """The installed version."""
        return json_response({"version": installed_version("glm-crush")})
