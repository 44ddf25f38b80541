"""The engines' own counters and gauges, read when somebody asks and not before.

Above: `server_metrics`. Below: `ServedModels` and the engines. Labels and names are vLLM's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glm_crush.engine.metrics import EngineMetrics
from glm_crush.serving.served_models import ServedModels

__all__ = ["EngineCollector", "MeasuredEngine"]

_LABELS = ("model_name", "engine")


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine that says how busy it is."""

    @property
    def metrics(self) -> EngineMetrics:
        """Counters since its start."""
        ...

    @property
    def num_running(self) -> int:
        """Replies being computed."""
        ...

    @property
    def num_waiting(self) -> int:
        """Replies that wait for their first step."""
        ...

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache in use."""
        ...


class EngineCollector(Collector):
    """Gauges and counters of every engine behind the served models."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known only from the engines, and registering must not ask them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One sample for each engine and name."""
        engines = [(model.name, model.engine) for model in self._models]
        measured = [(name, engine) for name, engine in engines if isinstance(engine, MeasuredEngine)]
        gauges: tuple[tuple[str, str, Callable[[MeasuredEngine], float]], ...] = (
            ("num_requests_running", "Replies being computed.", lambda engine: engine.num_running),
            ("num_requests_waiting", "Replies waiting for their first step.", lambda engine: engine.num_waiting),
            ("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", lambda engine: engine.cache_usage),
            (
                "prefix_store_bytes",
                "Bytes of computed prompts on disk.",
                lambda engine: engine.metrics.prefix_store_bytes,
            ),
        )
        counters = {
            "num_preemptions": ("Replies put back into the queue.", "num_preemptions"),
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", "prefix_cache_queries"),
            "prefix_cache_hits": ("Prompt tokens found in the prefix cache.", "prefix_cache_hits"),
            "prefix_store_hits": ("Tokens whose keys and values came from disk.", "prefix_store_hits"),
            "prefix_store_writes": ("Cache blocks written to disk.", "prefix_store_writes"),
            "prefix_store_drops": ("Cache blocks that came too fast to be written.", "prefix_store_drops"),
            "prefix_store_evictions": ("Cache blocks on disk that gave way.", "prefix_store_evictions"),
            "prefix_store_damaged": ("Cache blocks on disk that were not as written.", "prefix_store_damaged"),
            "spec_decode_num_draft_tokens": ("Tokens guessed ahead and verified.", "num_drafted_tokens"),
            "spec_decode_num_accepted_tokens": ("Guessed tokens that replies have.", "num_accepted_tokens"),
            "engine_steps": ("Steps computed.", "num_steps"),
            "engine_step_seconds": ("Seconds spent in steps.", "step_seconds"),
            "computed_tokens": ("Tokens computed, again after a preemption included.", "num_computed_tokens"),
        }
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for model, engine in measured:
                gauge.add_metric((model, "0"), value(engine))
            yield gauge
        for name, (text, attribute) in counters.items():
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for model, engine in measured:
                counter.add_metric((model, "0"), getattr(engine.metrics, attribute))
            yield counter
