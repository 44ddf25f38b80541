"""What the scheduler may hand out. Above: the scheduler and who builds it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SchedulerLimits"]


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """What the scheduler may hand out.

    Attributes:
        max_context: longest prompt and reply together. max_num_seqs: requests running at the same time.
        token_budget: tokens one step may compute, at least `max_num_seqs` so that no decode waits.
        max_queue_size: requests that may wait.
        max_scored_rows: prompt tokens of one request whose logprobs one step may yield, and drafts that it may verify;
            each needs a row of logits as wide as the vocabulary.
    """

    max_context: int
    max_num_seqs: int = 32
    token_budget: int = 512
    max_queue_size: int = 512
    max_scored_rows: int = 64

    def __post_init__(self) -> None:
        assert self.token_budget >= self.max_num_seqs > 0
        assert self.max_context > 0
        assert self.max_scored_rows > 0
