"""Operators see counts, times and traces of every request, and no text of any."""

from __future__ import annotations

import io
import json
import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client.parser import text_string_to_metric_families

from glm_crush.config import ApiSettings, ObservabilitySettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from glm_crush.serving.observability.logs import configure_logs
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.served_models import ServedModels
from tests.models.tiny import tiny_checkpoint
from tests.serving.scripted import ScriptedEngine

pytestmark = pytest.mark.requirement("S8")

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "a secret question"}]}


@pytest.fixture
def observed(start_server: Callable[..., Any]) -> Callable[..., str]:
    def start(engine: ScriptedEngine | None = None, exporter: Any = None, **settings: Any) -> str:
        chosen = ObservabilitySettings(**settings)
        server = start_server(engine, parts=lambda models: [Observability(models, chosen, exporter=exporter)])
        return str(server.url)

    return start


class WaitingExporter(SpanExporter):
    """Hands finished spans to whoever waits for them."""

    def __init__(self) -> None:
        self.spans: queue.Queue[Any] = queue.Queue()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self.spans.put(span)
        return SpanExportResult.SUCCESS


def samples(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx2.get(f"{url}/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    return samples(url)[name, frozenset(labels.items())]


def test_tokens_and_ends_of_replies_are_counted(observed: Callable[..., str]) -> None:
    url = observed(ScriptedEngine(script=lambda prompt: "Hello"))
    httpx2.post(f"{url}/v1/chat/completions", json=CHAT)
    httpx2.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 2})
    assert value(url, "vllm:generation_tokens_total", model_name="scripted") == 7
    assert value(url, "vllm:request_success_total", model_name="scripted", finished_reason="stop") == 1
    assert value(url, "vllm:request_success_total", model_name="scripted", finished_reason="length") == 1
    assert value(url, "vllm:inter_token_latency_seconds_count", model_name="scripted") == 4 + 1


def test_a_reply_that_fails_is_counted_as_a_failure(observed: Callable[..., str]) -> None:
    url = observed(ScriptedEngine(fail_after=1))
    assert httpx2.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 500
    assert value(url, "vllm:request_failure_total", model_name="scripted", error="RuntimeError") == 1


def test_requests_are_counted_under_their_route_and_strange_paths_under_one_name(observed: Callable[..., str]) -> None:
    url = observed()
    httpx2.get(f"{url}/v1/models/scripted")
    httpx2.get(f"{url}/wp-login.php")
    httpx2.get(f"{url}/.env")
    assert value(url, "http_requests_total", method="GET", handler="/v1/models/{model_id}", status="2xx") == 1
    assert value(url, "http_requests_total", method="any", handler="unknown", status="4xx") == 2
    assert not any("wp-login" in str(key) for key in samples(url))


def test_metrics_can_be_switched_off(observed: Callable[..., str]) -> None:
    assert httpx2.get(f"{observed(metrics=False)}/metrics").status_code == 404


def test_load_names_every_model(observed: Callable[..., str]) -> None:
    assert httpx2.get(f"{observed()}/load").json() == {"models": {"scripted": {}}}


def test_a_generation_is_a_span_within_its_request_and_the_callers_trace(observed: Callable[..., str]) -> None:
    exporter = WaitingExporter()
    url = observed(exporter=exporter)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    httpx2.post(
        f"{url}/v1/chat/completions",
        json=CHAT | {"max_tokens": 3},
        headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
    )
    generation, request = sorted((exporter.spans.get(timeout=30) for _ in range(2)), key=lambda span: span.kind.value)
    assert request.name == "POST /v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    assert format(request.context.trace_id, "032x") == trace_id
    assert generation.parent.span_id == request.context.span_id
    assert generation.attributes["gen_ai.request.model"] == "scripted"
    assert generation.attributes["gen_ai.request.max_tokens"] == 3
    assert generation.attributes["gen_ai.usage.output_tokens"] == 3
    assert generation.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert "secret" not in generation.to_json() + request.to_json()


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logs("debug", "json")
    stream = io.StringIO()
    root.handlers[0].setStream(stream)  # type: ignore[attr-defined]
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)


def test_json_logs_hold_a_line_for_each_request_and_no_text(
    observed: Callable[..., str], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    url = observed()
    reply = httpx2.post(f"{url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-1"})
    assert reply.status_code == 200
    (line,) = [line for line in log_lines() if line.get("request_id") == "mine-1"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert line["level"] == "info"
    assert "secret question" not in json.dumps(log_lines())


def test_a_real_engine_fills_every_histogram_of_its_replies(tmp_path: Path, loopback_server: Any) -> None:
    url, current = loopback_server
    loaded = load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path / "packed", weight_format="f32")
    model, engine = serve_loaded_model("tiny", loaded, load_settings(flags={"crush.threads": 1}))
    try:
        models = ServedModels([model])
        current.app = create_app(models, ApiSettings(), parts=[Observability(models, ObservabilitySettings())])
        body = {"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
        assert httpx2.post(f"{url}/v1/completions", json=body).status_code == 200
        for name in (
            "time_to_first_token_seconds",
            "e2e_request_latency_seconds",
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
        ):
            assert value(url, f"vllm:{name}_count", model_name="tiny") == 1
        assert value(url, "vllm:request_prompt_tokens_sum", model_name="tiny") == 3
        assert value(url, "vllm:request_generation_tokens_sum", model_name="tiny") == 4
        assert value(url, "vllm:num_requests_running", model_name="tiny", engine="0") == 0
        assert value(url, "vllm:prefix_cache_queries_total", model_name="tiny", engine="0") == 3
        assert httpx2.get(f"{url}/load").json()["models"]["tiny"]["waiting"] == 0
    finally:
        engine.close()
