"""Metrics and traces as a part of the server.

Above: `glm serve`. Below: `server_metrics`, `tracing`. Importing this module costs no more than prometheus-client;
OpenTelemetry's SDK comes only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from starlette.middleware import Middleware

from glm_crush.config import ObservabilitySettings
from glm_crush.errors import ConfigError
from glm_crush.serving.observability.routes import load_routes, metrics_routes
from glm_crush.serving.observability.server_metrics import HttpMetrics, ServerMetrics
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from glm_crush.serving.observability.tracing import Tracing

__all__ = ["Observability"]


class Observability(ServerPart):
    """Watches the generations and HTTP requests of one server.

    `exporter` takes the traces; None = as the settings say.

    Raises:
        ConfigError: traces are wanted and OpenTelemetry is not installed.
    """

    def __init__(
        self, models: ServedModels, settings: ObservabilitySettings, *, exporter: SpanExporter | None = None
    ) -> None:
        self._models = models
        self._metrics = ServerMetrics(models) if settings.metrics else None
        self._tracing = _tracing(settings, exporter)
        watches = [] if self._metrics is None else [self._metrics.generations.watch]
        if self._tracing is not None:
            watches.append(self._tracing.watch)
        models.watch_generations(*watches)

    def count_finding(self, direction: str, rule: str, action: str) -> None:
        """Count a finding of the guard."""
        if self._metrics is not None:
            self._metrics.guard_findings.labels(direction, rule, action).inc()

    def routes(self) -> Sequence[ApiRoute]:
        """GET /load, and GET /metrics unless it is switched off."""
        return [*load_routes(self._models), *(metrics_routes(self._metrics) if self._metrics else ())]

    def middleware(self) -> Sequence[Middleware]:
        """What counts and traces HTTP requests."""
        found = []
        if self._metrics is not None:
            found.append(Middleware(HttpMetrics, metrics=self._metrics))
        if self._tracing is not None:
            from glm_crush.serving.observability.tracing import HttpSpans

            found.append(Middleware(HttpSpans, tracing=self._tracing))
        return found

    def running(self) -> AbstractAsyncContextManager[None]:
        """Measures the event loop; sends the last traces at the end."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        lag = None if self._metrics is None else asyncio.create_task(self._metrics.watch_event_loop())
        try:
            yield
        finally:
            if lag is not None:
                lag.cancel()
                with suppress(asyncio.CancelledError):
                    await lag
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)


def _tracing(settings: ObservabilitySettings, exporter: SpanExporter | None) -> Tracing | None:
    if exporter is None and settings.otlp_endpoint is None:
        return None
    try:
        from glm_crush.serving.observability.tracing import Tracing, otlp_exporter
    except ImportError as error:
        raise ConfigError(
            "observability.otlp_endpoint is set and OpenTelemetry is not installed; pip install 'glm-crush[otel]'"
        ) from error
    return Tracing(exporter or otlp_exporter(str(settings.otlp_endpoint)))
