"""From the sampling parameters of requests to the arrays of a `SampleBatch`.

Above: the runner. Below: `kernels.sampling`. Rows keep their values from one step to the next; only counters
and penalty histories move while the same requests sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from glm_crush.engine.grammar import GrammarState
from glm_crush.engine.penalty_history import PenaltyHistory
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import ScheduledBatch, ScheduledRequest
from glm_crush.kernels.sampling import SampleBatch
from glm_crush.types import SamplingParams

__all__ = ["SampleBatchBuilder"]


@dataclass(frozen=True, slots=True)
class _Row:
    """What one row of logits is drawn with.

    `drafts` are taken as drawn already; `forced` is the only token it may draw, or -1.
    """

    params: SamplingParams
    seed: int = 0
    counter: int = 0
    bias: Mapping[int, float] = field(default_factory=dict)
    history: PenaltyHistory | None = None
    drafts: tuple[int, ...] = ()
    forced: int = -1
    num_logprobs: int = -1


class SampleBatchBuilder:
    """Builds one `SampleBatch` a step; its arrays are valid until the next `build`.

    Attributes:
        grammars: of the requests that have one; the engine keeps it.
    """

    def __init__(self, *, vocab_size: int) -> None:
        self.grammars: dict[Request, GrammarState] = {}
        self._vocab_size = vocab_size
        self._requests: list[Request] = []  # who sampled in the last step, if the next can continue from it
        self._unstoppable: list[Request] = []  # those of them below min_tokens
        self._histories: dict[Request, PenaltyHistory] = {}
        self._rows: list[_Row] = []
        self._batch = SampleBatch.greedy(0)

    def build(self, batch: ScheduledBatch) -> SampleBatch:
        """Rows as `ForwardBatchBuilder` orders the logits: scored prompt positions, sampled token, token per draft."""
        sampling = [scheduled.request for scheduled in batch.requests if scheduled.samples]
        if any(scheduled.scored or scheduled.drafts for scheduled in batch.requests):
            return self._build_anew(batch)
        if sampling == self._requests and all(_may_not_stop(request) for request in self._unstoppable):
            self._batch.counter[:] = [request.num_output_tokens for request in sampling]
        else:
            self._keep_histories(sampling)
            self._requests = sampling
            self._unstoppable = [request for request in sampling if _may_not_stop(request)]
            self._rows = [_sampled_row(request, self._histories.get(request)) for request in sampling]
            self._batch = _columns(self._rows)
        batch_so_far = _with_histories(self._batch, self._rows)
        constrained = self._constrained(sampling)
        if not constrained:
            return batch_so_far
        mask = self._full_mask(len(self._rows))
        for row, grammar in constrained:
            grammar.fill(mask[row])
        return replace(batch_so_far, allowed_mask=mask)

    def _build_anew(self, batch: ScheduledBatch) -> SampleBatch:
        """A step that also scores prompt tokens or verifies drafts.

        The row of a prompt token may draw nothing but that token: the sampler reports logprobs of the unmodified
        logits, so a mask of one token yields exactly its logprob.
        """
        self._requests, self._unstoppable, self._rows, self._batch = [], [], [], SampleBatch.greedy(0)
        self._keep_histories([scheduled.request for scheduled in batch.requests if scheduled.samples])
        rows: list[_Row] = []
        constrained: list[tuple[int, GrammarState, tuple[int, ...]]] = []
        for scheduled in batch.requests:
            rows += _scored_rows(scheduled)
            if scheduled.samples:
                request, drafts = scheduled.request, scheduled.drafts
                grammar = self.grammars.get(request)
                if grammar is not None:
                    constrained.append((len(rows), grammar, drafts))
                history = self._histories.get(request)
                rows += [_sampled_row(request, history, drafts[:count]) for count in range(len(drafts) + 1)]
        samples = _with_histories(_columns(rows), rows)
        if not constrained and all(row.forced < 0 for row in rows):
            return samples
        mask = self._full_mask(len(rows))
        for first, grammar, drafts in constrained:
            grammar.fill_along(mask[first : first + len(drafts) + 1], drafts)
        for index, row in enumerate(rows):
            if row.forced >= 0:
                mask[index] = 0
                mask[index, row.forced // 32] = 1 << row.forced % 32
        return replace(samples, allowed_mask=mask)

    def _keep_histories(self, sampling: Sequence[Request]) -> None:
        """One history for each sampling request that has penalties; those of others go."""
        self._histories = {
            request: self._histories.get(request) or PenaltyHistory(request)
            for request in sampling
            if _has_penalties(request.params)
        }

    def _constrained(self, sampling: Sequence[Request]) -> list[tuple[int, GrammarState]]:
        """Those of the sampling requests whose next token is not free, by their place."""
        if not self.grammars:
            return []
        states = [(place, self.grammars.get(request)) for place, request in enumerate(sampling)]
        return [(place, state) for place, state in states if state is not None and state.constrains]

    def _full_mask(self, num_rows: int) -> npt.NDArray[np.uint32]:
        """A mask that allows every token."""
        return np.full((num_rows, (self._vocab_size + 31) // 32), 0xFFFFFFFF, np.uint32)


def _may_not_stop(request: Request, num_drafts: int = 0) -> bool:
    return request.num_output_tokens + num_drafts < request.params.min_tokens


def _has_penalties(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _sampled_row(request: Request, history: PenaltyHistory | None, drafts: tuple[int, ...] = ()) -> _Row:
    """The row that draws the token after the request's last one and `drafts`."""
    bias = request.params.logit_bias
    if _may_not_stop(request, len(drafts)):
        bias = {**bias, **dict.fromkeys(sorted(request.stop_token_ids), -np.inf)}
    num_logprobs = -1 if request.num_logprobs is None else request.num_logprobs
    counter = request.num_output_tokens + len(drafts)
    return _Row(request.params, request.seed, counter, bias, history, drafts, num_logprobs=num_logprobs)


def _scored_rows(scheduled: ScheduledRequest) -> list[_Row]:
    if not scheduled.scored:
        return []
    request = scheduled.request
    params = SamplingParams(temperature=0.0)
    num_logprobs = request.params.prompt_logprobs or 0
    return [
        _Row(params, forced=request.token_ids[position], num_logprobs=num_logprobs) for position in scheduled.scored
    ]


def _columns(rows: Sequence[_Row]) -> SampleBatch:
    """Everything but histories and mask, as arrays."""
    params = [row.params for row in rows]
    return SampleBatch(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        typical_p=np.array([p.typical_p for p in params], np.float32),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float32),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float32),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float32),
        seed=np.array([row.seed for row in rows], np.uint64),
        counter=np.array([row.counter for row in rows], np.uint64),
        num_logprobs=np.array([row.num_logprobs for row in rows], np.int32),
        history_start=np.zeros(len(rows) + 1, np.int32),
        history_ids=np.zeros(0, np.int32),
        history_counts=np.zeros(0, np.int32),
        bias_start=_starts([len(row.bias) for row in rows]),
        bias_ids=np.array([token for row in rows for token in row.bias], np.int32),
        bias_values=np.array([value for row in rows for value in row.bias.values()], np.float32),
    )


def _with_histories(batch: SampleBatch, rows: Sequence[_Row]) -> SampleBatch:
    """The same batch with the tokens that each penalised row has seen so far."""
    histories = [row.history for row in rows if row.history is not None]
    if not histories:
        return batch
    for history in histories:
        history.update()
    seen = [None if row.history is None else row.history.after(row.drafts) for row in rows]
    return replace(
        batch,
        history_start=_starts([0 if ids_counts is None else len(ids_counts[0]) for ids_counts in seen]),
        history_ids=np.concatenate([ids for ids, _ in filter(None, seen)]),
        history_counts=np.concatenate([counts for _, counts in filter(None, seen)]),
    )


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """Where each row begins in the arrays of all rows, and the end."""
    starts = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    return starts
