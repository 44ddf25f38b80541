"""Counters of an engine since its start. The serving layer reads them; nothing here knows a metrics system."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from glm_crush.types import FinishReason

if TYPE_CHECKING:  # whoever only reads the counters does without the engine
    from glm_crush.engine.request import Request
    from glm_crush.engine.scheduled_batch import ScheduledRequest

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
        prefix_store_hits: tokens whose keys and values came from disk. prefix_store_writes, prefix_store_drops: blocks
            written there, and blocks that came too fast to be. prefix_store_evictions: blocks that gave way.
        prefix_store_damaged: blocks that were not what had been written. prefix_store_bytes: on disk now.
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
    prefix_store_hits: int = 0
    prefix_store_writes: int = 0
    prefix_store_drops: int = 0
    prefix_store_evictions: int = 0
    prefix_store_damaged: int = 0
    prefix_store_bytes: int = field(default=0, metadata={"gauge": True})
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_finished: dict[FinishReason, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})

    def note_start(self, request: Request, now: float) -> None:
        """A reply is in a step for the first time."""
        request.first_scheduled_time = now
        self.num_started += 1
        self.num_prompt_tokens += request.num_prompt_tokens
        if request.cache_report is not None:
            self.prefix_cache_queries += request.num_prompt_tokens
            self.prefix_cache_hits += request.num_cached_tokens
        self.queue_seconds += now - request.arrival_time

    def note_first_token(self, request: Request, now: float) -> None:
        """A step has drawn the first token of a reply."""
        request.first_token_time = now
        self.num_first_tokens += 1
        self.time_to_first_token_seconds += now - request.arrival_time

    def note_gain(self, scheduled: ScheduledRequest, num_added: int) -> None:
        """A step has added tokens to a reply; guesses count for the request too."""
        self.num_output_tokens += num_added
        if scheduled.drafts:
            request, num_drafts = scheduled.request, len(scheduled.drafts)
            # Of those that were right, the ones after the reply's end are not in it.
            num_accepted = min(num_added, request.num_computed_tokens - scheduled.start - 1)
            request.num_drafted_tokens += num_drafts
            request.num_accepted_tokens += num_accepted
            self.num_drafted_tokens += num_drafts
            self.num_accepted_tokens += num_accepted


def sum_of_metrics(first: EngineMetrics, second: EngineMetrics) -> EngineMetrics:
    """The counters of two engines that worked one after the other; what is no counter is the second's."""
    return EngineMetrics(
        **{
            spec.name: getattr(second, spec.name)
            if spec.metadata.get("gauge")
            else _sum(getattr(first, spec.name), getattr(second, spec.name))
            for spec in fields(EngineMetrics)
        }
    )


def _sum(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {key: first.get(key, 0) + second.get(key, 0) for key in {**first, **second}}
    return first + second
