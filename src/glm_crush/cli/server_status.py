"""What a running server is doing, model by model, put together from its public routes.

Above: `glm ps`. Below: the client. Speed is the difference between two looks at a counter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from glm_crush.errors import AccessDeniedError, RecordNotFoundError

if TYPE_CHECKING:
    from glm_crush.client import Client, Model
    from glm_crush.client.server import ModelLoad

__all__ = ["ModelStatus", "StatusWatch"]

_WRITTEN = "vllm:generation_tokens_total"


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """One model in memory.

    Attributes:
        kind: "chat", "completion", "embedding" or "reranker".
        running, waiting, kv_cache_usage: None = not of this model, or the key may not know.
        tokens_per_second: written since the look before; None = there was none.
        until: when it leaves memory, in seconds since 1970; None = it stays.
    """

    model: str
    kind: str
    size_bytes: int
    context_length: int | None
    running: int | None
    waiting: int | None
    kv_cache_usage: float | None
    tokens_per_second: float | None
    until: float | None


class StatusWatch:
    """Looks at a server again and again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._written: Mapping[str, float] = {}
        self._looked_at: float | None = None

    def look(self) -> list[ModelStatus]:
        """Every model in memory. Raises GlmError."""
        kinds = {model.id: _kind(model) for model in self._client.models.list()}
        written, now = self._tokens(), time.monotonic()
        load = self._load()
        rows = []
        for model in self._client.models.running():
            busy = load.get(model.name)
            rate = None
            if self._looked_at is not None and model.name in written:
                rate = (written[model.name] - self._written.get(model.name, 0.0)) / (now - self._looked_at)
            rows.append(
                ModelStatus(
                    model=model.name,
                    kind=kinds.get(model.name, "-"),
                    size_bytes=model.size,
                    context_length=model.context_length,
                    running=None if busy is None else busy.running,
                    waiting=None if busy is None else busy.waiting,
                    kv_cache_usage=None if busy is None else busy.kv_cache_usage,
                    tokens_per_second=rate,
                    until=_moment(model.expires_at),
                )
            )
        self._written, self._looked_at = written, now
        return rows

    def _load(self) -> Mapping[str, ModelLoad]:
        try:
            return self._client.load().models
        except (AccessDeniedError, RecordNotFoundError):  # a key without the scope, or another server: not known
            return {}

    def _tokens(self) -> Mapping[str, float]:
        from prometheus_client.parser import text_string_to_metric_families

        try:
            text = self._client.metrics()
        except (AccessDeniedError, RecordNotFoundError):  # the same, or metrics are turned off
            return {}
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.labels["model_name"]: sample.value for sample in samples if sample.name == _WRITTEN}


def _kind(model: Model) -> str:
    can = model.capabilities
    if can.get("chat"):
        return "chat"
    if can.get("embeddings"):
        return "embedding"
    return "reranker" if can.get("rerank") else "completion"


def _moment(text: str) -> float | None:
    """Ollama writes nanoseconds, and the year 9999 for what stays."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.year >= 9999:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
