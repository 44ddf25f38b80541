"""Guesses from the model's own multi-token prediction layer, which GLM-4.5 and later carry: one token ahead.

The layer reads what the model has just computed: its hidden state at each position and the token that came after it. It
keeps keys and values of its own for every position, in the same blocks under the same numbers, so that block tables,
shared prefixes and forks hold for it too. A block's last position also depends on the first token behind the block:
where that differs between two requests with one prefix, the guess is worse, never the reply. A second token ahead is
hardly ever right (vLLM issue 25993), so there is none. Above: `speculation`. Below: two executors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.engine.forward_batch import ForwardBatchBuilder
from glm_crush.engine.grammar import GrammarState
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.runner import Executor
from glm_crush.engine.sampler import SampleBatchBuilder
from glm_crush.engine.scheduled_batch import ScheduledBatch, ScheduledRequest
from glm_crush.engine.scheduler_limits import SchedulerLimits
from glm_crush.engine.speculation import Drafter
from glm_crush.kernels.program import ForwardBatch

__all__ = ["LayerExecutor", "ModelExecutor", "NextTokenLayer"]

Float32 = npt.NDArray[np.float32]
_FIRST_RATE = 0.7


class ModelExecutor(Protocol):
    """What ran the step."""

    def read_hidden(self, num_tokens: int) -> Float32:
        """Hidden states of the last step's tokens, `[num_tokens, hidden_size]`."""


class LayerExecutor(Executor, Protocol):
    """What runs the layer."""

    def write_hidden(self, hidden: Float32) -> None:
        """The hidden states of the next step's tokens."""


class NextTokenLayer(Drafter):
    """A `Drafter` that follows every step of the model with a step of the layer.

    Args:
        model: runs the model; its program keeps hidden states.
        layer: runs the layer, over as many cache blocks.
        limits: of the engine's steps.
        block_size: tokens per block.
        vocab_size: width of the logits.
        grammars: of running requests, the runner's own: guesses are drawn under their masks.
    """

    first_rates: Sequence[float] = (_FIRST_RATE,)
    max_length = 1
    follows_steps = True

    def __init__(
        self,
        model: ModelExecutor,
        layer: LayerExecutor,
        limits: SchedulerLimits,
        *,
        block_size: int,
        vocab_size: int,
        grammars: dict[Request, GrammarState],
    ) -> None:
        self._model = model
        self._layer = layer
        self._forward_batch = ForwardBatchBuilder(limits, block_size=block_size)
        self._sample_batch = SampleBatchBuilder(vocab_size=vocab_size)
        self._sample_batch.grammars = grammars
        # Of the model's last step: each request's positions that the layer has not seen, and their hidden states.
        self._unseen: dict[Request, tuple[int, Float32]] = {}

    def certainty(self, request: Request) -> int | None:
        """Always the same, for those that the last step has brought to their last token."""
        if request not in self._unseen:
            return None
        start, hidden = self._unseen[request]
        return 0 if start + len(hidden) == request.num_tokens - 1 else None

    def observe(self, batch: ScheduledBatch) -> None:
        """Keep the step's hidden states; a position counts once the token after it is known."""
        if batch.copies:
            sources, targets = np.array(batch.copies, np.int32).T.copy()
            self._layer.copy_blocks(sources, targets)
        hidden = self._model.read_hidden(batch.num_tokens)
        row = 0
        for part in batch.requests:
            request = part.request
            known = min(request.num_computed_tokens, request.num_tokens - 1) - part.start
            if request.status is RequestStatus.RUNNING and part.num_tokens > 0 and known > 0:
                self._unseen[request] = (part.start, hidden[row : row + known])
            row += part.num_tokens

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        """Let the layer see what is new, and draw the next token of those that are asked for, as the model would."""
        unseen = {r: new for r, new in self._unseen.items() if r.status is RequestStatus.RUNNING}
        self._unseen = {}
        if not unseen:
            return {}
        parts = [
            ScheduledRequest(request, start, len(hidden), samples=request in lengths)
            for request, (start, hidden) in unseen.items()
        ]
        batch = ScheduledBatch(tuple(parts))
        forward_batch = replace(self._forward_batch.build(batch), adapter_ids=None)  # adapters are the model's alone
        _shift_tokens(forward_batch, parts)
        self._layer.write_hidden(np.concatenate([hidden for _, hidden in unseen.values()]))
        if not lengths:
            self._layer.forward(forward_batch)
            return {}
        drawn = self._layer.forward_sample(forward_batch, self._sample_batch.build(batch)).token_ids.tolist()
        asked = [part.request for part in parts if part.samples]
        return {request: [token_id] for request, token_id in zip(asked, drawn, strict=True) if token_id >= 0}

    def forget(self, request: Request) -> None:
        """The request has ended; its blocks are the scheduler's matter."""
        self._unseen.pop(request, None)


def _shift_tokens(batch: ForwardBatch, parts: Sequence[ScheduledRequest]) -> None:
    """The layer's token at position p is the model's at p + 1."""
    row = 0
    for part in parts:
        first = part.start + 1
        batch.token_ids[row : row + part.num_tokens] = part.request.token_ids[first : first + part.num_tokens]
        row += part.num_tokens
