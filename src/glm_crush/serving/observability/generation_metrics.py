"""Histograms and counters of generations, under the names that vLLM's dashboards ask for.

Above: `server_metrics`. Below: prometheus-client. Every protocol's requests pass here, since every one of them goes
through `ServedModel.generate`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from prometheus_client import CollectorRegistry, Counter, Histogram

from glm_crush.engine.output import RequestDelta, RequestStats
from glm_crush.types import SamplingParams

__all__ = ["GenerationMetrics"]

# vLLM's own bounds, so that panels made for it show what they are meant to
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_WHOLE = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_COUNT = (1, 2, 5, 10, 20)


class GenerationMetrics:
    """Counts what every generation asked for, waited and got; one instance for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}", text, ("model_name",), buckets=bounds, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", text, ("model_name", *labels), registry=registry)

        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished replies.")
        self._output_tokens = counter("generation_tokens", "Tokens written.")
        self._success = counter("request_success", "Finished replies.", "finished_reason")
        self._failed = counter("request_failure", "Requests that ended with an error.", "error")
        self._first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of a reply.", _BETWEEN)
        self._whole = histogram("e2e_request_latency_seconds", "From arrival to the end.", _WHOLE)
        self._queue = histogram("request_queue_time_seconds", "From arrival to the first step.", _WHOLE)
        self._prefill = histogram("request_prefill_time_seconds", "From the first step to the first token.", _WHOLE)
        self._decode = histogram("request_decode_time_seconds", "From the first token to the end.", _WHOLE)
        self._request_prompt = histogram("request_prompt_tokens", "Prompt tokens of a reply.", _TOKENS)
        self._request_output = histogram("request_generation_tokens", "Tokens of a reply.", _TOKENS)
        self._cached = histogram("request_cached_tokens", "Prompt tokens found in the prefix cache.", _TOKENS)
        self._params_n = histogram("request_params_n", "Replies asked for.", _COUNT)
        self._params_max = histogram("request_params_max_tokens", "Largest reply asked for.", _TOKENS)

    async def watch(
        self, model: str, params: SamplingParams, deltas: AsyncGenerator[RequestDelta, None]
    ) -> AsyncGenerator[RequestDelta, None]:
        """The same deltas, counted as they pass; the source is closed when this generator is."""
        self._params_n.labels(model).observe(params.n)
        if params.max_tokens is not None:
            self._params_max.labels(model).observe(params.max_tokens)
        between, written = self._between.labels(model), self._output_tokens.labels(model)
        last: dict[int, float] = {}
        try:
            async for delta in deltas:
                count = len(delta.token_ids)
                if count:
                    now = time.perf_counter()
                    written.inc(count)
                    if delta.index in last:
                        between.observe((now - last[delta.index]) / count)
                    last[delta.index] = now
                if delta.finish_reason is not None:
                    self._finished(model, delta.finish_reason, delta.stats)
                yield delta
        except Exception as error:
            self._failed.labels(model, type(error).__name__).inc()
            raise
        finally:
            await deltas.aclose()

    def _finished(self, model: str, reason: str, stats: RequestStats | None) -> None:
        self._success.labels(model, reason).inc()
        if stats is None:
            return
        self._prompt_tokens.labels(model).inc(stats.num_prompt_tokens)
        self._request_prompt.labels(model).observe(stats.num_prompt_tokens)
        self._request_output.labels(model).observe(stats.num_output_tokens)
        self._cached.labels(model).observe(stats.num_cached_tokens)
        self._whole.labels(model).observe(stats.elapsed_seconds)
        if stats.queue_seconds is None:
            return
        self._queue.labels(model).observe(stats.queue_seconds)
        if stats.time_to_first_token_seconds is None:
            return
        self._first_token.labels(model).observe(stats.time_to_first_token_seconds)
        self._prefill.labels(model).observe(stats.time_to_first_token_seconds - stats.queue_seconds)
        self._decode.labels(model).observe(stats.elapsed_seconds - stats.time_to_first_token_seconds)
