"""One step as it was planned: who computes which tokens, who draws, which blocks are copied before.

Above: the scheduler writes it; forward batch, sampler and runner read it. This module knows neither queues nor arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.engine.request import Request

__all__ = ["ScheduledBatch", "ScheduledRequest", "part_of_step"]

_NO_POSITIONS = range(0)


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request's part of a step.

    Attributes:
        start, num_tokens: computes tokens `[start, start + num_tokens)` of the request, drafts included; none for a
            fork, which draws from the logits of the request before it.
        samples: the step reaches the request's last token, so that it yields a new one.
        scored: prompt positions whose logprob this step yields; the logits of `p - 1` score prompt token `p`.
        drafts: guesses of the tokens after the last one, computed as if they were right; the step yields a token for
            each of them too, up to the first that turns out wrong.
    """

    request: Request
    start: int
    num_tokens: int
    samples: bool
    scored: range = _NO_POSITIONS
    drafts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One engine step: who computes what, and who lost its blocks to make room.

    Attributes:
        num_decode_steps: tokens that each request draws, one after the other; more than 1 only if all do nothing else.
        copies: cache blocks to copy before the step, `(from, to)` in order.
    """

    requests: tuple[ScheduledRequest, ...]
    preempted: tuple[Request, ...] = ()
    num_decode_steps: int = 1
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(scheduled.num_tokens for scheduled in self.requests) * self.num_decode_steps


def part_of_step(request: Request, num_tokens: int) -> ScheduledRequest:
    """The next `num_tokens` of a request, with what its logits are wanted for."""
    start = request.num_computed_tokens
    end = start + num_tokens
    scored = _NO_POSITIONS
    if request.prompt_logprobs is not None:
        # Positions scored before a preemption are not scored again.
        scored = range(max(start + 1, len(request.prompt_logprobs)), min(end + 1, request.num_prompt_tokens))
    return ScheduledRequest(request, start, num_tokens, end == len(request.token_ids), scored)
