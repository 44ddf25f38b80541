"""Requests that go on from where another stands: they share its cache blocks, and copy one only to write into it.

Above: the scheduler. Below: the block pool. The replies of one call wait here until the first of them has computed the
prompt; beams are forked at every step. This module knows neither queues nor arrays.
"""

from __future__ import annotations

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.types import CacheReport

__all__ = ["Forks"]


class Forks:
    """Owns the replies that wait for another's prompt.

    Attributes:
        pending: they, by the request that computes it; each is PENDING and in no queue.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pending: dict[Request, list[Request]] = {}
        self._pool = pool

    def wait_for(self, owner: Request, siblings: list[Request]) -> None:
        """Keep replies until `owner` has computed the prompt that they have in common."""
        for sibling in siblings:
            sibling.status = RequestStatus.PENDING
        if siblings:
            self.pending[owner] = siblings

    def take_pending(self, owner: Request) -> list[Request]:
        """Those that waited for `owner`, who has got there."""
        return self.pending.pop(owner, [])

    def remove(self, request: Request) -> Request | None:
        """Forget a request that ends; returns the one that must compute the prompt in its place, if others wait."""
        if request.status is RequestStatus.PENDING:
            for owner, siblings in self.pending.items():
                if request in siblings:
                    siblings.remove(request)
                    if not siblings:
                        del self.pending[owner]
                    return None
            return None
        siblings = self.take_pending(request)
        if not siblings:
            return None
        self.wait_for(siblings[0], siblings[1:])
        return siblings[0]

    def share(self, source: Request, target: Request, num_tokens: int) -> None:
        """Let `target` stand where `source` does once `num_tokens` are computed, with all blocks in common."""
        table = source.block_table[: self._pool.num_blocks_for(num_tokens)]
        self._pool.share(table)
        target.block_table = table
        target.num_computed_tokens = num_tokens
        target.prefix.node = source.prefix.node

    def share_prompt(self, source: Request, target: Request) -> None:
        """`share` for a reply of the same call at the moment when its prompt has been computed."""
        num_tokens = source.num_prompt_tokens
        self.share(source, target, num_tokens)
        target.num_cached_tokens = num_tokens
        if source.cache_report is not None:
            target.cache_report = CacheReport(num_tokens, num_tokens, "complete")
        target.prompt_logprobs = source.prompt_logprobs

    def shared_place(self, request: Request) -> int | None:
        """Which block of its table a request must copy before it writes its next token: one that others hold too."""
        place = request.num_computed_tokens // self._pool.block_size
        table = request.block_table
        if place < len(table) and self._pool.num_references(table[place]) > 1:
            return place
        return None

    def replace(self, request: Request, place: int, block: int) -> tuple[int, int]:
        """Give the request a block of its own; returns what is to be copied, `(from, to)`."""
        table = request.block_table
        old = table[place]
        request.block_table = [*table[:place], block, *table[place + 1 :]]
        self._pool.release([old])
        return old, block
