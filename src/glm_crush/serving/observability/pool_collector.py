"""Which models are in memory and how they came and went, read when somebody asks and not before.

Above: `server_metrics`. Below: the pool. vLLM serves one model and has no names for this; ours begin with `glm_`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glm_crush.serving.model_pool.pool import ModelPool

__all__ = ["PoolCollector"]

_LABELS = ("model_name",)


class PoolCollector(Collector):
    """Gauges and counters of the server's models."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    def describe(self) -> Iterable[Metric]:
        """Nothing: names of models are known only from the pool."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One sample for each model."""
        residency, metrics = self._pool.residency, self._pool.metrics
        slots = [slot for slot in residency if slot.state in ("loading", "loaded", "closing")]
        memory = GaugeMetricFamily("glm_model_memory_bytes", "Weights and cache of a model in memory.", labels=_LABELS)
        users = GaugeMetricFamily("glm_model_users", "Requests that hold a model.", labels=_LABELS)
        for slot in slots:
            memory.add_metric((slot.name,), slot.num_bytes)
            users.add_metric((slot.name,), slot.num_users)
        yield memory
        yield users
        loaded = sum(slot.state == "loaded" for slot in slots)
        yield GaugeMetricFamily("glm_models_loaded", "Models in memory.", value=loaded)
        budget = math.inf if residency.budget_bytes is None else residency.budget_bytes
        yield GaugeMetricFamily("glm_model_memory_budget_bytes", "What all models may take together.", value=budget)
        counters: dict[str, tuple[str, Mapping[str, float]]] = {
            "glm_model_loads": ("Models loaded for a request or an operator.", metrics.loads),
            "glm_model_load_failures": ("Models that could not be loaded.", metrics.failures),
            "glm_model_load_seconds": ("Seconds spent loading them.", metrics.load_seconds),
        }
        for name, (text, values) in counters.items():
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for model, value in values.items():
                counter.add_metric((model,), value)
            yield counter
        closed = CounterMetricFamily("glm_model_closed", "Models closed, by reason.", labels=(*_LABELS, "reason"))
        for (model, reason), value in metrics.closed.items():
            closed.add_metric((model, reason), value)
        yield closed
