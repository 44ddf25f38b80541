"""What a model will take of the memory: planned from its files before anything is allocated.

Above: `build`, and servers of several models, which make room before they load. Below: the loaded model's headers and
`cache_plan`. Imports nothing of the engine, so that a process that only plans does without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glm_crush.config import CrushSettings
from glm_crush.engine.cache_plan import CachePlan, kv_bytes_per_token, kv_dtype_beside, plan_cache
from glm_crush.models.loader import LoadedModel

__all__ = ["BLOCK_SIZE", "MemoryPlan", "plan_memory"]

BLOCK_SIZE = 16


@dataclass(frozen=True)
class MemoryPlan:
    """Weights, mapped from their files, and the KV cache when it is full."""

    weight_bytes: int
    cache: CachePlan

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.cache.num_bytes


def plan_memory(
    models: Iterable[LoadedModel], settings: CrushSettings, *, max_context: int | None, budget_bytes: int
) -> MemoryPlan:
    """Plan a model that generates, together with what guesses for it.

    Args:
        models: the model itself, then its draft model or the layer that guesses.
        settings: type and size of the cache.
        max_context: longest prompt and reply; None = what model and memory allow.
        budget_bytes: for weights and cache together.

    Raises:
        ConfigError: what the settings ask for is more than the model allows or than the budget; states the numbers.
    """
    models = list(models)
    weight_bytes = sum(packed.weight_bytes for packed in {id(model.packed): model.packed for model in models}.values())
    kv_dtype = kv_dtype_beside(models[0].packed.weight_formats(), settings.kv_dtype)
    cache = plan_cache(
        max_position=models[0].compiled.max_position,
        bytes_per_token=sum(kv_bytes_per_token(model.compiled.program, kv_dtype) for model in models),
        block_size=BLOCK_SIZE,
        max_context=max_context,
        kv_cache_tokens=settings.kv_cache_tokens,
        budget_bytes=budget_bytes - weight_bytes,
    )
    return MemoryPlan(weight_bytes, cache)
