"""Runs one scheduled step: arrays in, one native call, tokens out.

Above: the engine. Below: the executor (`kernels.native` or its NumPy twin `kernels.reference`), which owns
the KV cache. This module knows neither queues nor text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.engine.adapters import Adapters
from glm_crush.engine.forward_batch import ForwardBatchBuilder
from glm_crush.engine.request import Request
from glm_crush.engine.sampler import SampleBatchBuilder
from glm_crush.engine.scheduler import ScheduledBatch, SchedulerLimits
from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.sampling import SampleBatch, SampleResult
from glm_crush.types import TokenLogprobs

__all__ = ["Executor", "Runner", "StepResult"]


class Executor(Protocol):
    """What runs a program over its KV cache; every call writes the cache."""

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy whole blocks of the cache, in every layer and in order."""

    def forward(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """Logits, float32 `[num_logit_rows, vocab_size]`."""

    def forward_sample(self, batch: ForwardBatch, sample_batch: SampleBatch) -> SampleResult:
        """One token per logit row."""

    def decode(self, batch: ForwardBatch, sample_batch: SampleBatch, num_steps: int) -> npt.NDArray[np.int32]:
        """Draw `num_steps` tokens per sequence, each computed from the one before: int32 `[num_steps, num_seqs]`.

        Every sequence of the batch brings one token and draws; no penalties, no logprobs. A sequence for which no
        token can be drawn gets -1 from there on.
        """


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step yielded.

    Attributes:
        token_ids: the new tokens of each request that sampled, in order; -1 where no token could be drawn.
        logprobs: of those tokens; None where they were not asked for.
        scored: prompt tokens' logprobs, in order of position.
        num_accepted: of the requests that had drafts verified: how many of them were right.
    """

    token_ids: list[list[int]]
    logprobs: list[list[TokenLogprobs] | None]
    scored: list[tuple[Request, TokenLogprobs]]
    num_accepted: dict[Request, int] = field(default_factory=dict)


class Runner:
    """Owns the executor and the arrays of a step."""

    def __init__(
        self,
        executor: Executor,
        limits: SchedulerLimits,
        *,
        block_size: int,
        vocab_size: int,
        adapters: Adapters | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.adapters = adapters or Adapters()
        self._executor = executor
        self._forward_batch = ForwardBatchBuilder(limits, block_size=block_size)
        self._sample_batch = SampleBatchBuilder(vocab_size=vocab_size)
        self.grammars = self._sample_batch.grammars  # of running requests; the engine puts them in and takes them out

    def execute(self, batch: ScheduledBatch) -> StepResult:
        """Compute the step's tokens and draw from the logits."""
        if batch.copies:
            sources, targets = np.array(batch.copies, np.int32).T.copy()
            self._executor.copy_blocks(sources, targets)
        forward_batch = self._forward_batch.build(batch)
        sample_batch = self._sample_batch.build(batch)
        if sample_batch.num_rows == 0:
            self._executor.forward(forward_batch)
            return StepResult([], [], [])
        if batch.num_decode_steps > 1:
            tokens = self._executor.decode(forward_batch, sample_batch, batch.num_decode_steps)
            return StepResult(tokens.T.tolist(), [None] * len(batch.requests), [])
        return _read(batch, self._executor.forward_sample(forward_batch, sample_batch))


def _read(batch: ScheduledBatch, result: SampleResult) -> StepResult:
    """Deal the rows out to the requests they belong to.

    The token drawn after the last one is certain. Where it equals the first draft, the row of that draft was computed
    from the right context and its token is certain too, and so on.
    """
    drawn = result.token_ids.tolist()
    token_ids: list[list[int]] = []
    logprobs: list[list[TokenLogprobs] | None] = []
    scored: list[tuple[Request, TokenLogprobs]] = []
    num_accepted: dict[Request, int] = {}
    row = 0
    for scheduled in batch.requests:
        request = scheduled.request
        for _ in scheduled.scored:
            scored.append((request, _token_logprobs(result, row, request.params.prompt_logprobs or 0)))
            row += 1
        if scheduled.samples:
            wanted, drafts = request.num_logprobs, scheduled.drafts
            count = 0
            while count < len(drafts) and drawn[row + count] == drafts[count]:
                count += 1
            if drafts:
                num_accepted[request] = count
            token_ids.append(drawn[row : row + count + 1])
            rows = range(row, row + count + 1)
            logprobs.append(None if wanted is None else [_token_logprobs(result, r, wanted) for r in rows])
            row += 1 + len(drafts)
    return StepResult(token_ids, logprobs, scored, num_accepted)


def _token_logprobs(result: SampleResult, row: int, num_top: int) -> TokenLogprobs:
    ids, values = result.top_ids[row, :num_top].tolist(), result.top_logprobs[row, :num_top].tolist()
    top = tuple((token, value) for token, value in zip(ids, values, strict=True) if token >= 0)
    return TokenLogprobs(int(result.token_ids[row]), float(result.logprobs[row]), top)
