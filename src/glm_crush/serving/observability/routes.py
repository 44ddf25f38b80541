"""GET /metrics for Prometheus, GET /load for balancers."""

from __future__ import annotations

from typing import NotRequired

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from glm_crush.serving.json_http import json_response
from glm_crush.serving.observability.engine_collector import MeasuredEngine
from glm_crush.serving.observability.server_metrics import ServerMetrics
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

__all__ = ["load_routes", "metrics_routes"]


class _ModelLoad(TypedDict):
    """Nothing of a model whose engine does not tell."""

    running: NotRequired[int]
    waiting: NotRequired[int]
    kv_cache_usage: NotRequired[float]


class _Load(TypedDict):
    """By model."""

    models: dict[str, _ModelLoad]


def metrics_routes(metrics: ServerMetrics) -> list[ApiRoute]:
    """What Prometheus scrapes."""

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), media_type=metrics.content_type)

    return [
        (
            Endpoint(
                "GET",
                "/metrics",
                "Counters and histograms in Prometheus's text format.",
                reply=str,
                media_type="text/plain",
            ),
            exposition,
        )
    ]


def load_routes(models: ServedModels) -> list[ApiRoute]:
    """What balancers ask."""

    async def load(_: Request) -> Response:
        return json_response({"models": {model.name: _load_of(model.engine) for model in models}})

    return [(Endpoint("GET", "/load", "How busy each model is.", reply=_Load), load)]


def _load_of(engine: object) -> dict[str, float]:
    if not isinstance(engine, MeasuredEngine):
        return {}
    return {"running": engine.num_running, "waiting": engine.num_waiting, "kv_cache_usage": engine.cache_usage}
