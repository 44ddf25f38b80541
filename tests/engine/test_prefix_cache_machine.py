"""Pool, prefix cache and scheduler under any sequence of arrivals, steps, aborts and evictions (state machine).

A model of the KV cache goes along: it remembers for each place of each block after which tokens it was written.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.scheduler import ScheduledBatch, ScheduledRequest, Scheduler
from glm_crush.errors import ContextLengthError, OverloadedError
from glm_crush.types import SamplingParams
from tests.engine.scripted import make_limits

# Prompts are built from few pieces, so that many begin alike; some end inside a block.
PIECES = ([1] * 4, [1, 1, 2], [2] * 5, [3], [1, 1, 1, 1, 2, 2, 2, 2])


class PrefixCacheMachine(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(4, 24), block_size=st.integers(1, 4), budget=st.integers(3, 16))
    def start(self, num_blocks: int, block_size: int, budget: int) -> None:
        limits = make_limits(max_context=40, max_num_seqs=3, token_budget=budget, max_queue_size=6, max_scored_rows=2)
        self.pool = BlockPool(num_blocks, block_size)
        self.cache = PrefixCache(self.pool)
        self.scheduler = Scheduler(limits, self.pool, self.cache)
        self.requests: list[Request] = []
        self.written: dict[tuple[int, int], tuple[int, ...]] = {}

    @rule(
        pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=5),
        max_tokens=st.integers(1, 12),
        priority=st.integers(-1, 1),
        prompt_logprobs=st.sampled_from([None, None, None, 0]),
        salt=st.sampled_from(["", "", "other"]),
        n=st.integers(1, 3),
    )
    def add(
        self, pieces: list[list[int]], max_tokens: int, priority: int, prompt_logprobs: int | None, salt: str, n: int
    ) -> None:
        prompt = [token for piece in pieces for token in piece]
        params = SamplingParams(prompt_logprobs=prompt_logprobs)
        new = [
            Request("r", prompt, params, max_tokens=max_tokens, priority=priority, index=index, cache_salt=salt)
            for index in range(n)
        ]
        try:
            self.scheduler.add(new)
        except (ContextLengthError, OverloadedError):
            return
        self.requests += new

    @rule(max_decode_steps=st.integers(1, 4), token=st.integers(1, 2), stops=st.booleans())
    def step(self, max_decode_steps: int, token: int, stops: bool) -> None:
        self.take_step(max_decode_steps, token, stops)

    @precondition(lambda self: self.beams())
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """A request becomes two: both draw, each a token of its own."""
        source = data.draw(st.sampled_from(self.beams()))
        drawn = source.token_ids.pop()
        index = 1 + max(r.index for r in self.requests if r.arrival == source.arrival)
        target = Request(
            "r",
            source.token_ids[: source.num_prompt_tokens],
            source.params,
            max_tokens=source.max_tokens,
            priority=source.priority,
            index=index,
            cache_salt=source.prefix.salt.decode(),
        )
        target.status = RequestStatus.PENDING
        self.scheduler.fork(source, target)
        source.token_ids.append(drawn)
        target.token_ids.append(3 - drawn)
        self.requests.append(target)

    @precondition(lambda self: self.open_requests())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.scheduler.finish(data.draw(st.sampled_from(self.open_requests())), "abort")

    @rule()
    def forget(self) -> None:
        self.cache.clear()

    @invariant()
    def is_sound(self) -> None:
        self.scheduler.check_integrity()

    @invariant()
    def every_cached_block_holds_what_its_path_says(self) -> None:
        for request in self.requests:
            self.check_written(request, self.cache.blocks(request.prefix) if is_cached(request) else [])

    def open_requests(self) -> list[Request]:
        return [r for r in self.requests if r.status is not RequestStatus.FINISHED]

    def beams(self) -> list[Request]:
        """Requests that have just drawn."""
        return [
            r
            for r in self.scheduler.running
            if r.num_output_tokens > 0 and r.num_computed_tokens == r.num_tokens - 1 and r.prompt_logprobs is None
        ]

    def take_step(self, max_decode_steps: int = 1, token: int = 1, stops: bool = False) -> None:
        batch = self.scheduler.schedule(max_decode_steps=max_decode_steps)
        assert bool(batch.requests) == self.scheduler.has_unfinished
        self.check_nothing_is_computed_twice(batch)
        self.copy(batch)
        for part in batch.requests:
            if part.num_tokens == 0:
                continue  # a fork: what it stands on is computed in this step
            self.check_written(part.request, part.request.block_table[: -(-part.start // self.pool.block_size)])
            if part.request.prompt_logprobs is not None:
                part.request.prompt_logprobs += [None] * len(part.scored)
        self.scheduler.update(batch)
        for part in batch.requests:
            if part.samples:
                part.request.token_ids.extend([token] * batch.num_decode_steps)
            self.write(part, batch)
        for request in self.scheduler.running:
            self.check_written(request, request.block_table, request.num_computed_tokens)
        for part in batch.requests:
            if stops and batch.num_decode_steps > 1:  # the first token of the run ends the reply
                del part.request.token_ids[1 - batch.num_decode_steps :]
                self.scheduler.finish(part.request, "stop")
            elif part.request.num_output_tokens == part.request.max_tokens:
                self.scheduler.finish(part.request, "length")

    def copy(self, batch: ScheduledBatch) -> None:
        for source, target in batch.copies:
            for place in range(self.pool.block_size):
                if (source, place) in self.written:
                    self.written[target, place] = self.written[source, place]

    def write(self, part: ScheduledRequest, batch: ScheduledBatch) -> None:
        """Record what a request writes, into blocks that nobody else holds but the forks that begin with this step."""
        request, size = part.request, self.pool.block_size
        begun = [fork.request for fork in batch.requests if fork.num_tokens == 0]
        for position in range(part.start, part.start + part.num_tokens + batch.num_decode_steps - 1):
            block = request.block_table[position // size]
            assert self.pool.num_references(block) == 1 + sum(block in fork.block_table for fork in begun)
            self.written[request.block_table[position // size], position % size] = content(request, position)

    def check_written(self, request: Request, table: list[int], num_tokens: int | None = None) -> None:
        """The places of `table` hold this request's tokens, each after those before it."""
        size = self.pool.block_size
        if num_tokens is None:
            num_tokens = min(len(table) * size, max(request.num_computed_tokens, request.prefix.length))
        for position in range(num_tokens):
            assert self.written[table[position // size], position % size] == content(request, position)

    def check_nothing_is_computed_twice(self, batch: ScheduledBatch) -> None:
        """No two requests of a step compute the same block of a prompt (except those that must)."""
        size = self.pool.block_size
        blocks: Counter[tuple[int, ...]] = Counter()
        for part in batch.requests:
            request = part.request
            if request.params.prompt_logprobs is None:
                end = min(part.start + part.num_tokens, request.num_prompt_tokens - 1)
                blocks.update(content(request, p - 1) for p in range(part.start + size, end + 1) if p % size == 0)
        assert all(count == 1 for count in blocks.values())

    def teardown(self) -> None:
        """Nobody waits for ever, whoever was aborted or preempted."""
        for _ in range(5000):
            if not hasattr(self, "scheduler") or not self.scheduler.has_unfinished:
                break
            self.take_step()
        else:
            raise AssertionError(f"unfinished: {self.open_requests()}")
        if hasattr(self, "pool"):
            assert self.pool.num_free == self.pool.num_blocks
            self.cache.clear()
            assert len(self.cache) == 0
            self.scheduler.check_integrity()


def is_cached(request: Request) -> bool:
    return request.prefix.node is not None and request.prefix.node.is_cached


def content(request: Request, position: int) -> tuple[int, ...]:
    """What the keys and values at a position depend on."""
    return (*request.prefix.salt, -1, *request.token_ids[: position + 1])


TestPrefixCacheMachine = PrefixCacheMachine.TestCase
