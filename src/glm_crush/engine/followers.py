"""Who waits for a block that a running request or the prefix store is about to fill, instead of computing it too.

Above: the scheduler. Below: the prefix cache. Built anew for each step that admits requests: a request waits for what
runs now, never for a promise, so that nobody waits for an owner that was aborted or preempted.
"""

from __future__ import annotations

from collections.abc import Iterable

from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request

__all__ = ["Followers"]


class Followers:
    """Looks waiting requests up in the prefix cache and tells which of them had better wait."""

    def __init__(self, prefix_cache: PrefixCache | None, running: Iterable[Request]) -> None:
        self._prefix_cache = prefix_cache
        self._being_computed: set[tuple[int, bytes]] = set()
        for request in running:
            self.add(request)

    def add(self, owner: Request) -> None:
        """A running request: the block after those that it has stored, if its tokens are known, is being computed."""
        if self._prefix_cache is None:
            return
        key = self._prefix_cache.next_key(owner.prefix, owner.token_ids, owner.num_tokens)
        if key is not None:
            self._being_computed.add(key)

    def must_wait(self, request: Request) -> bool:
        """Match a waiting request's prefix; whether its next block is on its way already."""
        cache = self._prefix_cache
        if cache is None:
            return False
        limit = request.num_skippable_tokens
        cache.match(request.prefix, request.token_ids, limit)
        key = cache.next_key(request.prefix, request.token_ids, limit)
        return key in self._being_computed or key in cache.being_restored
