"""Everything that GET /metrics shows: engines, generations, HTTP, the event loop, the process.

Above: `app.py`. Below: prometheus-client, with a registry of its own for each server: no global state.
"""

from __future__ import annotations

import asyncio
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from glm_crush.serving.middleware import Application, Message, Receive, Scope, Send
from glm_crush.serving.observability.engine_collector import EngineCollector
from glm_crush.serving.observability.generation_metrics import GenerationMetrics
from glm_crush.serving.observability.pool_collector import PoolCollector
from glm_crush.serving.served_models import ServedModels

__all__ = ["HttpMetrics", "ServerMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_LAG_INTERVAL_SECONDS = 0.05


class ServerMetrics:
    """The registry of one server and what fills it."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, models: ServedModels) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(models))
        self.registry.register(PoolCollector(models.pool))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.generations = GenerationMetrics(self.registry)
        self.guard_findings = Counter(
            "glm_guard_findings", "What the guard found.", ("direction", "rule", "action"), registry=self.registry
        )
        self.requests = Counter(
            "http_requests", "Requests answered.", ("method", "handler", "status"), registry=self.registry
        )
        self.durations = Histogram(
            "http_request_duration_seconds",
            "From the request's head to the last byte of the reply.",
            ("method", "handler"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_progress = Gauge("http_requests_in_progress", "Requests being answered.", registry=self.registry)
        self._lag = Histogram(
            "glm_event_loop_lag_seconds",
            f"How much later than asked a {_LAG_INTERVAL_SECONDS} s timer of the event loop fires.",
            buckets=_LAG,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)

    async def watch_event_loop(self) -> None:
        """Measure how late timers fire, until cancelled."""
        while True:
            due = time.perf_counter() + _LAG_INTERVAL_SECONDS
            await asyncio.sleep(_LAG_INTERVAL_SECONDS)
            self._lag.observe(max(0.0, time.perf_counter() - due))


class HttpMetrics:
    """ASGI middleware that counts and times every HTTP request under the path of its route, not its own.

    A path that no route has is counted as `unknown`, so that strangers cannot grow the number of series.
    """

    def __init__(self, app: Application, *, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; everything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_progress.track_inprogress():
            try:
                await self._app(scope, receive, watched)
            finally:
                handler = str(scope.get("glm_crush.route", "unknown"))
                method = scope["method"] if handler != "unknown" else "any"
                self._metrics.requests.labels(method, handler, f"{status // 100}xx" if status else "none").inc()
                self._metrics.durations.labels(method, handler).observe(time.perf_counter() - started)
