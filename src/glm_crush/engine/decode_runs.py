"""How many tokens all requests of a step may draw one after the other in one native call.

Above: the scheduler. See docs/decisions/several-tokens-per-call.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.scheduled_batch import ScheduledRequest

__all__ = ["reserve_decode_steps"]


def reserve_decode_steps(scheduled: Sequence[ScheduledRequest], pool: BlockPool, max_steps: int) -> int:
    """How many tokens all of them can draw one after the other; takes the blocks for them."""
    for part in scheduled:
        request = part.request
        # A reply's first token never waits for others.
        if part.num_tokens > 1 or request.num_output_tokens == 0 or request.needs_single_steps:
            return 1
        max_steps = min(max_steps, request.max_tokens - request.num_output_tokens)
    missing = [
        pool.num_blocks_for(len(part.request.token_ids) + max_steps - 1) - len(part.request.block_table)
        for part in scheduled
    ]
    if sum(count for count in missing if count > 0) > pool.num_free:
        return 1
    for part, count in zip(scheduled, missing, strict=True):
        if count > 0:
            part.request.block_table.extend(pool.try_allocate(count) or ())
    return max_steps
