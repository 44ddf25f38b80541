"""OpenTelemetry traces: a span for each HTTP request and one for each generation within it; never their texts.

Above: `app.py`. Below: opentelemetry (the extra `otel`), imported only when an endpoint is set. Spans join the trace
that the caller's `traceparent` header names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from importlib.metadata import version as installed_version

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from glm_crush.engine.output import RequestDelta
from glm_crush.serving.middleware import Application, Message, Receive, Scope, Send
from glm_crush.serving.observability import gen_ai_names as names
from glm_crush.types import SamplingParams

__all__ = ["HttpSpans", "Tracing", "otlp_exporter"]

_SEND_EVERY_MILLISECONDS = 1000


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Spans as OTLP over HTTP to a collector, for example http://127.0.0.1:4318/v1/traces."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint)


class Tracing:
    """The tracer of one server; spans leave in batches from a thread of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "glm-crush", "service.version": installed_version("glm-crush")})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_EVERY_MILLISECONDS))
        self.tracer = self._provider.get_tracer("glm_crush")

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()

    async def watch(
        self, model: str, params: SamplingParams, deltas: AsyncGenerator[RequestDelta, None]
    ) -> AsyncGenerator[RequestDelta, None]:
        """The same deltas, within a span; the source is closed when this generator is."""
        span = self.tracer.start_span(
            f"generate {model}", kind=trace.SpanKind.INTERNAL, attributes=_asked(model, params)
        )
        reasons: dict[int, str] = {}
        num_output = 0
        try:
            async for delta in deltas:
                num_output += len(delta.token_ids)
                if delta.finish_reason is not None:
                    reasons[delta.index] = delta.finish_reason
                    if delta.stats is not None:
                        span.set_attribute(names.INPUT_TOKENS, delta.stats.num_prompt_tokens)
                        span.set_attribute(names.CACHED_TOKENS, delta.stats.num_cached_tokens)
                        if delta.stats.time_to_first_token_seconds is not None:
                            span.set_attribute(names.TIME_TO_FIRST_TOKEN, delta.stats.time_to_first_token_seconds)
                yield delta
        except Exception as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.set_attribute(names.OUTPUT_TOKENS, num_output)
            span.set_attribute(names.FINISH_REASONS, [reasons[index] for index in sorted(reasons)])
            span.end()
            await deltas.aclose()


def _asked(model: str, params: SamplingParams) -> dict[str, str | int | float]:
    wanted = {
        names.OPERATION: "text_completion",
        names.PROVIDER: "glm-crush",
        names.REQUEST_MODEL: model,
        names.MAX_TOKENS: params.max_tokens,
        names.TEMPERATURE: params.temperature,
        names.TOP_P: params.top_p,
        names.SEED: params.seed,
    }
    return {name: value for name, value in wanted.items() if value is not None}


class HttpSpans:
    """ASGI middleware: a server span for each HTTP request, continuing the caller's trace."""

    def __init__(self, app: Application, *, tracing: Tracing) -> None:
        self._app = app
        self._tracer = tracing.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; everything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = propagate.extract({name: headers[name] for name in ("traceparent", "tracestate") if name in headers})
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        kind = trace.SpanKind.SERVER
        with self._tracer.start_as_current_span(scope["method"], parent, kind=kind, attributes=attributes) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, watched)
            route = scope.get("glm_crush.route")
            if route is not None:
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", str(route))
            span.set_attribute("glm_crush.request_id", str(scope.get("state", {}).get("request_id", "")))
