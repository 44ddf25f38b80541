"""The scheduler under any sequence of arrivals, steps and ends (hypothesis state machine)."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.scheduler import ScheduledBatch, Scheduler
from glm_crush.errors import ContextLengthError, OverloadedError
from glm_crush.types import SamplingParams
from tests.engine.scripted import make_limits


class SchedulerMachine(RuleBasedStateMachine):
    """Checks every step against the promises of the scheduler, and at the end that everything can finish."""

    @initialize(num_blocks=st.integers(3, 20), block_size=st.integers(1, 4), budget=st.integers(3, 12))
    def start(self, num_blocks: int, block_size: int, budget: int) -> None:
        self.limits = make_limits(
            max_context=40, max_num_seqs=3, token_budget=budget, max_queue_size=5, max_scored_rows=2
        )
        self.pool = BlockPool(num_blocks, block_size)
        self.scheduler = Scheduler(self.limits, self.pool)
        self.requests: list[Request] = []

    @rule(
        prompt=st.integers(1, 30),
        max_tokens=st.integers(1, 12),
        priority=st.integers(-1, 1),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        n=st.integers(1, 3),
        tenant=st.sampled_from("abc"),
    )
    def add(
        self, prompt: int, max_tokens: int, priority: int, prompt_logprobs: int | None, n: int, tenant: str
    ) -> None:
        params = SamplingParams(prompt_logprobs=prompt_logprobs)
        new = [
            Request("r", range(prompt), params, max_tokens=max_tokens, priority=priority, index=index, tenant=tenant)
            for index in range(n)
        ]
        num_waiting = len(self.scheduler.waiting)
        try:
            self.scheduler.add(new)
        except ContextLengthError:
            capacity = self.pool.num_blocks * self.pool.block_size
            assert prompt + max_tokens > min(40, capacity + 1)
        except OverloadedError:
            assert num_waiting + n > 5
        else:
            assert prompt + max_tokens <= self.scheduler.max_request_tokens
            self.requests += new

    @rule(max_decode_steps=st.integers(1, 4))
    def step(self, max_decode_steps: int) -> None:
        self.take_step(max_decode_steps)

    @rule(max_prompt_tokens=st.integers(1, 12))
    def step_in_time(self, max_prompt_tokens: int) -> None:
        self.take_step(max_prompt_tokens=max_prompt_tokens)

    @rule(num_drafts=st.integers(1, 6), num_right=st.integers(0, 6))
    def step_with_drafts(self, num_drafts: int, num_right: int) -> None:
        self.take_step(max_decode_steps=4, num_drafts=num_drafts, num_right=num_right)

    @precondition(lambda self: self.open_requests())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.scheduler.finish(data.draw(st.sampled_from(self.open_requests())), "abort")

    @invariant()
    def is_sound(self) -> None:
        self.scheduler.check_integrity()

    def open_requests(self) -> list[Request]:
        return [r for r in self.requests if r.status is not RequestStatus.FINISHED]

    def take_step(
        self,
        max_decode_steps: int = 1,
        num_drafts: int = 0,
        num_right: int = 0,
        max_prompt_tokens: int | None = None,
    ) -> None:
        drafts = {request: [2] * num_drafts for request in self.scheduler.running if num_drafts}
        decoding = [r for r in self.scheduler.running if r.num_tokens - r.num_computed_tokens == 1]
        batch = self.scheduler.schedule(
            max_decode_steps=max_decode_steps, drafts=drafts, max_prompt_tokens=max_prompt_tokens
        )
        self.check_promises(batch, decoding)
        if max_prompt_tokens is not None and decoding:
            beside = [part.num_tokens for part in batch.requests if part.request not in decoding]
            assert sum(beside) <= max_prompt_tokens + len(batch.preempted)
        for scheduled in batch.requests:
            if scheduled.request.prompt_logprobs is not None:
                scheduled.request.prompt_logprobs += [None] * len(scheduled.scored)
        num_accepted = {part.request: min(num_right, len(part.drafts)) for part in batch.requests if part.drafts}
        self.scheduler.update(batch, num_accepted)
        for scheduled in batch.requests:
            request = scheduled.request
            if scheduled.samples:
                request.token_ids.extend([1] * (batch.num_decode_steps + num_accepted.get(request, 0)))
            assert request.num_output_tokens <= request.max_tokens
            if request.num_output_tokens == request.max_tokens:
                self.scheduler.finish(request, "length")

    def check_promises(self, batch: ScheduledBatch, decoding: list[Request]) -> None:
        assert sum(part.num_tokens or 1 for part in batch.requests) <= self.limits.token_budget
        assert sum(len(part.drafts) for part in batch.requests) <= self.limits.max_scored_rows
        if batch.num_decode_steps > 1:
            assert not self.scheduler.waiting
            assert all(part.num_tokens == 1 and part.samples for part in batch.requests)
        assert bool(batch.requests) == bool(self.scheduler.has_unfinished)
        scheduled = {s.request for s in batch.requests}
        assert len(scheduled) == len(batch.requests)
        assert all(request in scheduled or request in batch.preempted for request in decoding)
        assert not scheduled & set(batch.preempted)
        for part in batch.requests:
            assert part.num_tokens >= 1 or part.start == part.request.num_prompt_tokens  # or it is a fork
            assert part.start == part.request.num_computed_tokens
            needed = part.request.num_tokens + batch.num_decode_steps - 1 + len(part.drafts)
            if part.drafts:
                assert part.samples
                assert part.request in decoding
                assert part.num_tokens == 1 + len(part.drafts)
            assert len(part.request.block_table) >= self.pool.num_blocks_for(needed)
        if batch.preempted:
            latest = max(request.order for request in scheduled)
            assert all(request.order > latest for request in batch.preempted)

    def teardown(self) -> None:
        """Nobody starves: as many steps as there are tokens, with what preemption repeats, end everything."""
        for _ in range(5000):
            if not hasattr(self, "scheduler") or not self.scheduler.has_unfinished:
                break
            self.take_step()
        else:
            raise AssertionError(f"unfinished: {self.open_requests()}")
        for request in getattr(self, "requests", []):
            if request.finish_reason == "length" and request.prompt_logprobs is not None:
                assert len(request.prompt_logprobs) == request.num_prompt_tokens


TestSchedulerMachine = SchedulerMachine.TestCase
