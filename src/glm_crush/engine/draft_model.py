"""Guesses from a second, smaller model with the same tokens, which follows each request in a cache of its own.

It draws with the request's own random numbers: the sampler maps one uniform number to the tokens in order of their
probability, so where the two models agree roughly they draw the same token, at any temperature (common random numbers).
Above: `speculation`. Below: a runner over the small model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request
from glm_crush.engine.runner import Runner
from glm_crush.engine.scheduled_batch import ScheduledBatch, ScheduledRequest
from glm_crush.engine.scheduler_limits import SchedulerLimits
from glm_crush.engine.speculation import Drafter

__all__ = ["DraftModel"]

_FIRST_RATE = 0.7


@dataclass(slots=True)
class _Follower:
    """A request as the small model knows it.

    Attributes:
        copy: its tokens so far, perhaps with drafts behind them. num_known: those that are no drafts.
    """

    copy: Request
    num_known: int


class DraftModel(Drafter):
    """A `Drafter` that runs a model.

    Args:
        runner: over the small model's own executor.
        pool: of that executor's cache blocks; a request for which none are left gets no guesses.
        limits: of the steps of that executor; `max_context` is the small model's.
        vocab_size: ids that both models know are below this; a text with others gets no guesses.
    """

    first_rates: Sequence[float] = (_FIRST_RATE,)

    def __init__(self, runner: Runner, pool: BlockPool, limits: SchedulerLimits, *, vocab_size: int) -> None:
        self._runner = runner
        self._pool = pool
        self._limits = limits
        self._vocab_size = vocab_size
        self._followers: dict[Request, _Follower] = {}
        self._budget_left = limits.token_budget  # tokens that the small model may still read before the next step

    def certainty(self, request: Request) -> int | None:
        """Always the same once the small model is about to have read the text; a step reads a budget's tokens at most.

        So a long prompt never holds up the streams that are decoding.
        """
        if request.num_tokens >= self._limits.max_context:
            return None
        copy = self._follow(request).copy
        if max(copy.token_ids[copy.num_computed_tokens :]) >= self._vocab_size:
            return None
        if not self._reserve(copy, copy.num_tokens):
            return None
        num_new = copy.num_tokens - copy.num_computed_tokens
        if num_new <= self._budget_left:
            self._budget_left -= num_new
            return 0
        if self._budget_left > 0:
            self._run([ScheduledRequest(copy, copy.num_computed_tokens, self._budget_left, samples=False)])
            copy.num_computed_tokens += self._budget_left
            self._budget_left = 0
        return None

    def observe(self, batch: ScheduledBatch) -> None:  # noqa: ARG002 (only that there was one)
        """The next step may read again."""
        self._budget_left = self._limits.token_budget

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        """What the small model would reply with; one call reads what is new, a second draws the rest for all."""
        if not lengths:
            return {}
        room = min(self._limits.max_context - request.num_tokens for request in lengths)
        longest = min(room, max(lengths.values()))
        copies = {request: self._followers[request].copy for request in lengths}
        copies = {r: copy for r, copy in copies.items() if self._reserve(copy, copy.num_tokens + longest)}
        if not copies:
            return {}
        self._draw_first(list(copies.values()))
        alive = [copy for copy in copies.values() if copy.num_computed_tokens < copy.num_tokens]
        if longest > 1 and alive:
            self._draw_more(alive, longest - 1)
        drafts = {r: copy.token_ids[self._followers[r].num_known :][: lengths[r]] for r, copy in copies.items()}
        return {r: [*takewhile(lambda token_id: token_id < self._vocab_size, draft)] for r, draft in drafts.items()}

    def forget(self, request: Request) -> None:
        """Give back its cache blocks."""
        follower = self._followers.pop(request, None)
        if follower is not None:
            self._pool.release(follower.copy.block_table)

    def check_integrity(self) -> None:
        """Assert that every block is accounted for; for tests."""
        self._pool.check_integrity(follower.copy.block_table for follower in self._followers.values())

    def _follow(self, request: Request) -> _Follower:
        """The follower with the request's tokens; drafts that came true stay computed."""
        follower = self._followers.get(request)
        if follower is None:
            follower = self._followers[request] = _Follower(_copy_of(request), request.num_tokens)
            return follower
        copy, num_right = follower.copy, follower.num_known
        end = min(copy.num_tokens, request.num_tokens)
        while num_right < end and copy.token_ids[num_right] == request.token_ids[num_right]:
            num_right += 1
        del copy.token_ids[num_right:]
        copy.token_ids.extend(request.token_ids[num_right:])
        copy.num_computed_tokens = min(copy.num_computed_tokens, num_right, request.num_tokens - 1)
        follower.num_known = request.num_tokens
        return follower

    def _reserve(self, copy: Request, num_tokens: int) -> bool:
        """Make the block table reach so far; False, and the request has none, when there are too few blocks."""
        missing = self._pool.num_blocks_for(num_tokens) - len(copy.block_table)
        if missing <= 0:
            return True
        blocks = self._pool.try_allocate(missing)
        if blocks is None:
            self._pool.release(copy.block_table)
            copy.block_table, copy.num_computed_tokens = [], 0
            return False
        copy.block_table.extend(blocks)
        return True

    def _draw_first(self, copies: Sequence[Request]) -> None:
        """Read what is new of each text and draw a token behind it."""
        parts = [
            ScheduledRequest(copy, copy.num_computed_tokens, copy.num_tokens - copy.num_computed_tokens, samples=True)
            for copy in copies
        ]
        for part, [token_id] in zip(parts, self._run(parts), strict=True):
            part.request.num_computed_tokens += part.num_tokens
            if token_id >= 0:
                part.request.token_ids.append(token_id)

    def _draw_more(self, copies: Sequence[Request], num_steps: int) -> None:
        parts = [ScheduledRequest(copy, copy.num_computed_tokens, 1, samples=True) for copy in copies]
        for copy, token_ids in zip(copies, self._run(parts, num_steps), strict=True):
            copy.num_computed_tokens += num_steps
            copy.token_ids.extend(token_ids[: token_ids.index(-1) if -1 in token_ids else num_steps])

    def _run(self, parts: Sequence[ScheduledRequest], num_steps: int = 1) -> list[list[int]]:
        return self._runner.execute(ScheduledBatch(tuple(parts), num_decode_steps=num_steps)).token_ids


def _copy_of(request: Request) -> Request:
    """The same text and random numbers; what only shapes the reply of the large model is left out."""
    params = replace(
        request.params,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        min_tokens=0,
        logprobs=None,
        prompt_logprobs=None,
        structured=None,
        n=1,
    )
    copy = Request(
        request.request_id,
        request.token_ids[: request.num_prompt_tokens],
        params,
        max_tokens=request.max_tokens,
        seed=request.seed,
        index=request.index,
    )
    copy.token_ids.extend(request.token_ids[request.num_prompt_tokens :])
    return copy
