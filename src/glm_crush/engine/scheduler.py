"""Which requests compute how many tokens in the next step.

There is no prefill or decode mode: every request's `num_computed_tokens` chases its `num_tokens`, and a step
hands out `token_budget` tokens. Chunked prefill, continuous batching and preemption all follow from that.
Above: the engine. Below: the block pool. This module knows neither arrays nor kernels nor text.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.decode_runs import reserve_decode_steps
from glm_crush.engine.draft_slots import add_drafts
from glm_crush.engine.fair_share import FairShare
from glm_crush.engine.followers import Followers
from glm_crush.engine.forks import Forks
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.request_checks import check_fits
from glm_crush.engine.scheduled_batch import ScheduledBatch, ScheduledRequest, part_of_step
from glm_crush.engine.scheduler_limits import SchedulerLimits
from glm_crush.errors import OverloadedError
from glm_crush.types import FinishReason

__all__ = ["ScheduledBatch", "ScheduledRequest", "Scheduler", "SchedulerLimits"]

_NONE_ACCEPTED: Mapping[Request, int] = MappingProxyType({})
_NO_DRAFTS: Mapping[Request, Sequence[int]] = MappingProxyType({})
_ORDER = attrgetter("order")


class Scheduler:
    """Owns the queues: within a priority tenants take turns, and each tenant's requests go in order of arrival.

    Args:
        prefix_cache: over the same pool; None = every request computes all of its tokens.
        fair_share: whose turn it is; None = all tenants weigh the same.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        pool: BlockPool,
        prefix_cache: PrefixCache | None = None,
        fair_share: FairShare | None = None,
    ) -> None:
        self.limits = limits
        self.prefix_cache = prefix_cache
        self.waiting: list[Request] = []  # both lists are sorted by Request.order
        self.running: list[Request] = []
        self._pool = pool
        self._fair_share = fair_share or FairShare()
        self._forks = Forks(pool)
        self._copies: list[tuple[int, int]] = []  # of the step being planned
        self._num_arrivals = 0

    @property
    def has_unfinished(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def pending(self) -> list[Request]:
        """Replies that wait for the first of their call to compute the prompt."""
        return [request for siblings in self._forks.pending.values() for request in siblings]

    @property
    def admits_waiting(self) -> bool:
        """Whether a request may join in the next step."""
        return bool(self.waiting) and len(self.running) < self.limits.max_num_seqs

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache's blocks in use."""
        return 1.0 - self._pool.num_free / self._pool.num_blocks

    @property
    def max_request_tokens(self) -> int:
        """Longest prompt and reply that can run here."""
        return min(self.limits.max_context, self.capacity + 1)

    @property
    def capacity(self) -> int:
        """Tokens that the KV cache holds."""
        return self._pool.num_blocks * self._pool.block_size

    @property
    def block_size(self) -> int:
        return self._pool.block_size

    def has_room(self, num_requests: int) -> bool:
        """Whether the queue takes this many more; an empty one takes any call, however many replies it wants."""
        return not self.waiting or len(self.waiting) + num_requests <= self.limits.max_queue_size

    def check(self, requests: Sequence[Request]) -> None:
        """Raises ContextLengthError when one of the requests can never run here."""
        for request in requests:
            check_fits(request, self.limits.max_context, self.capacity)

    def add(self, requests: Sequence[Request]) -> None:
        """Queue replies, all or none. Of one call's the first computes the prompt, and the others go on from there.

        Raises:
            ContextLengthError: one of them can never run here; states the numbers.
            OverloadedError: the queue is full.
        """
        self.check(requests)
        if not self.has_room(len(requests)):
            raise OverloadedError(
                f"{len(self.waiting)} requests are waiting and the queue holds {self.limits.max_queue_size}; "
                "try again later or raise max_queue_size"
            )
        for first in requests:
            if first.index == 0:
                replies = [request for request in requests if request.request_id == first.request_id]
                for request in replies:
                    request.arrival = self._num_arrivals
                self._num_arrivals += 1
                self._enter(self.waiting, first)
                self._forks.wait_for(first, replies[1:])

    def fork(self, source: Request, target: Request) -> None:
        """Let `target`, a PENDING request of the same call, go on from where `source` stands.

        They share every block. Where there is no room for it to run now, it waits and is computed again.
        """
        assert target.status is RequestStatus.PENDING
        target.arrival = source.arrival
        target.token_ids = source.token_ids[:]
        target.prompt_logprobs = source.prompt_logprobs
        if source.status is RequestStatus.RUNNING and len(self.running) < self.limits.max_num_seqs:
            self._forks.share(source, target, source.num_computed_tokens)
            self._enter(self.running, target)
        else:
            self._enter(self.waiting, target)

    def schedule(
        self,
        *,
        max_decode_steps: int = 1,
        drafts: Mapping[Request, Sequence[int]] = _NO_DRAFTS,
        max_prompt_tokens: int | None = None,
    ) -> ScheduledBatch:
        """Plan one step: iteration-level scheduling (Yu et al., Orca, OSDI '22) with preemption.

        Running requests come first, in order, and each that is one token behind is certain to be in the step;
        what the budget has left goes to those that are further behind, then to waiting ones. Takes blocks from
        the pool and moves requests between the queues. Where all requests decode and nobody waits, the step may draw
        up to `max_decode_steps` tokens for each. `drafts` of decoding requests are verified as far as the budget and
        the free blocks go once everybody else has got theirs. `max_prompt_tokens` bounds what a step computes beside
        requests that decode.
        """
        self._copies = []
        for request in self.running:
            self._store_prefix(request)
        scheduled, preempted, budget_left = self._extend_running(max_prompt_tokens)
        if not preempted:
            self._admit_waiting(scheduled, budget_left)
        while not scheduled and self.waiting and self.running:
            # Whoever runs is held for somebody who waits for room: the last in order make it.
            self._preempt_last(preempted)
            self._admit_waiting(scheduled, budget_left)
        num_decode_steps = 1
        if drafts:
            max_drafts = self.limits.token_budget - sum(part.num_tokens or 1 for part in scheduled)
            scheduled = add_drafts(scheduled, drafts, self._pool, min(max_drafts, self.limits.max_scored_rows))
        elif max_decode_steps > 1 and not preempted and not self.waiting and len(scheduled) == len(self.running):
            num_decode_steps = reserve_decode_steps(scheduled, self._pool, max_decode_steps)
        return ScheduledBatch(tuple(scheduled), tuple(preempted), num_decode_steps, tuple(self._copies))

    def update(self, batch: ScheduledBatch, num_accepted: Mapping[Request, int] = _NONE_ACCEPTED) -> None:
        """Record that `batch` was computed; the caller appends the drawn tokens to their requests.

        Of the drafts only the first `num_accepted` count as computed: what the others left in the cache is overwritten.
        """
        for scheduled in batch.requests:
            num_computed = scheduled.num_tokens + batch.num_decode_steps - 1
            if scheduled.drafts:
                num_computed -= len(scheduled.drafts) - num_accepted.get(scheduled.request, 0)
            scheduled.request.num_computed_tokens += num_computed
            if scheduled.samples:
                self._fair_share.charge_drawn(scheduled.request, batch.num_decode_steps)

    def finish(self, request: Request, reason: FinishReason) -> None:
        """End a request, wherever it is, and give back its blocks."""
        self.withdraw(request)
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason

    def withdraw(self, request: Request) -> None:
        """Take a request out of its queue and give back its blocks; `fork` may bring it back."""
        heir = self._forks.remove(request)
        if heir is not None:
            self._enter(self.waiting, heir)
        if request.status is not RequestStatus.PENDING:
            self._leave(self.running if request.status is RequestStatus.RUNNING else self.waiting, request)
            self._release(request)
            request.status = RequestStatus.PENDING

    def check_integrity(self) -> None:
        """Assert that queues, statuses and block tables agree; for tests and idle moments."""
        for queue, status in ((self.waiting, RequestStatus.WAITING), (self.running, RequestStatus.RUNNING)):
            assert all(request.status is status for request in queue)
            orders = [request.order for request in queue]
            assert orders == sorted(set(orders))
        assert all(not r.block_table and r.num_computed_tokens == 0 for r in (*self.waiting, *self.pending))
        assert all(request.status is RequestStatus.PENDING for request in self.pending)
        assert self._forks.pending.keys() <= {*self.waiting, *self.running}
        assert len(self.running) <= self.limits.max_num_seqs
        self._fair_share.check_integrity(self.waiting)
        for request in self.running:
            assert request.num_computed_tokens <= len(request.block_table) * self._pool.block_size
            assert request.num_computed_tokens <= request.num_tokens
            if self.prefix_cache is not None:
                known = self.prefix_cache.blocks(request.prefix)
                assert request.block_table[: len(known)] == known
                assert request.prefix.length <= request.num_computed_tokens
        tables = [request.block_table for request in self.running]
        if self.prefix_cache is not None:
            self.prefix_cache.check_integrity()
            tables += self.prefix_cache.being_restored.values()
        self._pool.check_integrity(tables)

    def _extend_running(self, max_prompt_tokens: int | None) -> tuple[list[ScheduledRequest], list[Request], int]:
        """Give running requests tokens and the blocks for them; the last in order lose theirs when there are none."""
        scheduled: list[ScheduledRequest] = []
        preempted: list[Request] = []
        budget_left = self.limits.token_budget
        # Set aside what decoding requests will take, so that no chunk of a long prompt before them in order can.
        num_decoding = sum(len(r.token_ids) - r.num_computed_tokens == 1 for r in self.running)
        if num_decoding and max_prompt_tokens is not None:
            budget_left = min(budget_left, num_decoding + max_prompt_tokens)
        to_share = budget_left - num_decoding
        position = 0
        while position < len(self.running):
            request = self.running[position]
            position += 1
            remaining = len(request.token_ids) - request.num_computed_tokens
            num_tokens = 1 if remaining == 1 else self._chunk(request, remaining, to_share)
            if num_tokens == 0:
                continue
            if not self._extend_blocks(request, preempted):
                break  # it was the last in order and has preempted itself
            if remaining > 1:
                to_share -= num_tokens
            budget_left -= num_tokens
            num_forks = self._schedule_part(scheduled, request, num_tokens, to_share)
            to_share -= num_forks
            budget_left -= num_forks
        return scheduled, preempted, budget_left

    def _admit_waiting(self, scheduled: list[ScheduledRequest], budget_left: int) -> None:
        """Start waiting requests in turn.

        Nobody overtakes the one whose turn it is, except while it waits for a block that another request computes.
        """
        # Requests that are further behind than the budget reached still want all of it.
        if len(scheduled) < len(self.running) and len(scheduled) < sum(not r.is_held for r in self.running):
            return
        followers = Followers(self.prefix_cache, self.running)
        num_passed = 0
        for request in self._fair_share.in_turn():
            if budget_left <= 0 or len(self.running) >= self.limits.max_num_seqs:
                return
            if num_passed == self.limits.max_num_seqs:
                return  # so many wait for blocks being computed that looking further would cost more than it gains
            if followers.must_wait(request):
                num_passed += 1
                continue
            blocks = self._take_blocks(request)
            if blocks is None:
                return
            self._leave(self.waiting, request)
            self._start(request, blocks)
            followers.add(request)
            num_tokens = self._chunk(request, request.num_tokens - request.num_computed_tokens, budget_left)
            budget_left -= num_tokens
            budget_left -= self._schedule_part(scheduled, request, num_tokens, budget_left)

    def _schedule_part(
        self, scheduled: list[ScheduledRequest], request: Request, num_tokens: int, budget_left: int
    ) -> int:
        """Put a request's tokens into the step, and the forks that they allow; returns the number of those.

        A fork takes one of the budget for its row of logits.
        """
        part = part_of_step(request, num_tokens)
        scheduled.append(part)
        if not part.samples or request not in self._forks.pending:
            return 0
        num_forks = 0
        for sibling in self._forks.take_pending(request):
            has_room = len(self.running) < self.limits.max_num_seqs and self._pool.num_free > len(self.running)
            if num_forks < budget_left and has_room:
                self._forks.share_prompt(request, sibling)
                self._enter(self.running, sibling)
                scheduled.append(ScheduledRequest(sibling, request.num_prompt_tokens, 0, True))
                num_forks += 1
            else:
                self._enter(self.waiting, sibling)
        return num_forks

    def _enter(self, queue: list[Request], request: Request) -> None:
        request.status = RequestStatus.RUNNING if queue is self.running else RequestStatus.WAITING
        insort(queue, request, key=_ORDER)
        if queue is self.waiting:
            self._fair_share.enter(request)

    def _leave(self, queue: list[Request], request: Request) -> None:
        position = bisect_left(queue, request.order, key=_ORDER)
        assert queue[position] is request
        del queue[position]
        if queue is self.waiting:
            self._fair_share.leave(request)

    def _take_blocks(self, request: Request) -> list[int] | None:
        """A table for all of the request's tokens, cached blocks first; None if there are too few blocks."""
        # One block stays free for each running request, or the newcomer would be preempted right away.
        keep_free = len(self.running)
        num_missing = self._pool.num_blocks_for(request.num_tokens) - request.prefix.length // self._pool.block_size
        if num_missing + keep_free > self._pool.num_free:
            return None
        cached = [] if self.prefix_cache is None else self.prefix_cache.blocks(request.prefix)
        self._pool.share(cached)
        blocks = self._pool.try_allocate(num_missing, keep_free=keep_free)
        if blocks is None:
            self._pool.release(cached)
            return None
        return cached + blocks

    def _start(self, request: Request, blocks: list[int]) -> None:
        """Move a request that is out of the queue to the running ones."""
        request.block_table = blocks
        request.num_computed_tokens = request.prefix.length
        self._enter(self.running, request)
        if request.num_preemptions == 0:  # what it has lost to others is not charged twice
            self._fair_share.charge_prompt(request, request.num_tokens - request.num_computed_tokens)
        if self.prefix_cache is not None and request.cache_report is None:
            request.num_cached_tokens = request.num_computed_tokens
            request.cache_report = self.prefix_cache.report(
                request.prefix, request.token_ids, request.num_skippable_tokens
            )

    def _chunk(self, request: Request, remaining: int, budget: int) -> int:
        """How many of the `remaining` tokens the step computes."""
        if request.prompt_logprobs is not None and len(request.prompt_logprobs) < request.num_prompt_tokens:
            budget = min(budget, self.limits.max_scored_rows)
        return min(remaining, budget)

    def _extend_blocks(self, request: Request, preempted: list[Request]) -> bool:
        """Make the block table reach the last token, in blocks that only this request writes.

        Returns: False when `request` itself had to give up its blocks.
        """
        while True:
            missing = max(0, self._pool.num_blocks_for(len(request.token_ids)) - len(request.block_table))
            shared = self._forks.shared_place(request)
            count = missing if shared is None else missing + 1
            if count == 0:
                return True
            blocks = self._pool.try_allocate(count)
            if blocks is not None:
                if shared is not None:
                    self._copies.append(self._forks.replace(request, shared, blocks.pop()))
                request.block_table.extend(blocks)
                return True
            # The last in order has not been scheduled yet in this step, since the step goes in order.
            if self._preempt_last(preempted) is request:
                return False

    def _preempt_last(self, preempted: list[Request]) -> Request:
        victim = self.running.pop()
        self._release(victim)
        self._enter(self.waiting, victim)
        victim.num_preemptions += 1
        preempted.append(victim)
        return victim

    def _release(self, request: Request) -> None:
        """Give back the blocks; what is lost of them until the request resumes will be computed again."""
        self._store_prefix(request)
        self._pool.release(request.block_table)
        request.block_table = []
        request.num_computed_tokens = 0

    def _store_prefix(self, request: Request) -> None:
        """Let others use the blocks that have been filled."""
        # Steps of a decode run beyond the token that ended the reply have computed tokens that are not there.
        num_filled = min(request.num_computed_tokens, len(request.token_ids))
        if self.prefix_cache is not None and num_filled - request.prefix.length >= self._pool.block_size:
            request.block_table = self.prefix_cache.store(
                request.prefix, request.token_ids, request.block_table, num_filled
            )
