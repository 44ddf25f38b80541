"""Room for guesses: which drafts of a step's decoding requests are verified in it.

Above: the scheduler, which asks once everybody has got what they need. Below: the block pool. This module knows neither
where drafts come from nor arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request
from glm_crush.engine.scheduled_batch import ScheduledRequest

__all__ = ["add_drafts"]


def add_drafts(
    scheduled: Sequence[ScheduledRequest], drafts: Mapping[Request, Sequence[int]], pool: BlockPool, max_drafts: int
) -> list[ScheduledRequest]:
    """Lengthen the parts of decoding requests by their drafts, `max_drafts` in all, as far as blocks are free.

    Takes the blocks from the pool; nobody gives up a block for a guess.
    """
    # One block stays free for each request, or the next step would have to preempt somebody whom a guess has robbed.
    keep_free = len(scheduled)
    parts = []
    for part in scheduled:
        wanted = drafts.get(part.request, ()) if part.samples and part.num_tokens == 1 else ()
        count = _reserve(part.request, min(len(wanted), max_drafts), pool, keep_free)
        max_drafts -= count
        parts.append(replace(part, num_tokens=1 + count, drafts=tuple(wanted[:count])) if count else part)
    return parts


def _reserve(request: Request, count: int, pool: BlockPool, keep_free: int) -> int:
    """How many drafts there is room for; takes the blocks that they need."""
    # A reply's last token is never computed, so no draft may stand in its place.
    count = min(count, request.max_tokens - request.num_output_tokens - 1)
    table = request.block_table
    while count > 0:
        missing = pool.num_blocks_for(request.num_tokens + count) - len(table)
        if missing <= 0:
            return count
        blocks = pool.try_allocate(missing, keep_free=keep_free)
        if blocks is not None:
            table.extend(blocks)
            return count
        count -= 1
    return 0
