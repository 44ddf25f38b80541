"""Counters of an engine since its start. The serving layer reads them; nothing here knows a metrics system."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from glm_crush.types import FinishReason

__all__ = ["EngineMetrics", "sum_of_metrics"]


@dataclass
class EngineMetrics:
    """Totals; times in seconds, summed over replies.

    Attributes:
        num_steps, step_seconds: engine steps that computed something, and the time they took.
        num_computed_tokens: of prompts and replies, those computed again after a preemption included.
        num_prompt_tokens, num_output_tokens: of replies that have begun; each token once.
        num_started, queue_seconds: replies that left the queue, and how long they had waited.
        num_first_tokens, time_to_first_token_seconds: replies with a first token, and the time to it.
        num_finished: replies by finish reason.
        num_drafted_tokens, num_accepted_tokens: tokens guessed ahead and verified, and those of them in replies.
        prefix_cache_queries, prefix_cache_hits: prompt tokens that were looked up in the prefix cache, and found.
    """

    num_steps: int = 0
    step_seconds: float = 0.0
    num_computed_tokens: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_preemptions: int = 0
    num_started: int = 0
    queue_seconds: float = 0.0
    num_first_tokens: int = 0
    time_to_first_token_seconds: float = 0.0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_finished: dict[FinishReason, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})


def sum_of_metrics(first: EngineMetrics, second: EngineMetrics) -> EngineMetrics:
    """The counters of two engines that worked one after the other."""
    return EngineMetrics(
        **{spec.name: _sum(getattr(first, spec.name), getattr(second, spec.name)) for spec in fields(EngineMetrics)}
    )


def _sum(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {key: first.get(key, 0) + second.get(key, 0) for key in {**first, **second}}
    return first + second
