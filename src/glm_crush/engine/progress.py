"""How far prompts have been read, for those who asked to be told.

Above: the engine. Below: the step as it was planned. A long prompt takes many steps, and on a CPU many seconds.
"""

from __future__ import annotations

from glm_crush.engine.output import PromptProgress, RequestDelta
from glm_crush.engine.scheduled_batch import ScheduledBatch

__all__ = ["prompt_progress"]


def prompt_progress(batch: ScheduledBatch, now: float) -> list[RequestDelta]:
    """What a step has added to prompts: for each a delta without tokens, before that with its first token."""
    deltas = []
    for scheduled in batch.requests:
        request = scheduled.request
        # The replies of a fork wait for the prompt of the first; what is read anew after a preemption is no news.
        if not request.params.return_progress or request.first_token_time is not None or not scheduled.num_tokens:
            continue
        started = now if request.first_scheduled_time is None else request.first_scheduled_time
        progress = PromptProgress(
            total=request.num_prompt_tokens,
            cached=request.num_cached_tokens,
            processed=min(scheduled.start + scheduled.num_tokens, request.num_prompt_tokens),
            seconds=now - started,
        )
        deltas.append(RequestDelta(request.request_id, request.index, (), "", progress=progress))
    return deltas
