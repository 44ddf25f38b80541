"""Beam search: which continuations of which beams are kept, and when no better reply can come.

Above: `beam_group`, which has the beams computed. This module knows token ids and log-probabilities only, neither
requests nor models. The rules are those of transformers, so that the same model gives the same beams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from glm_crush.types import TokenLogprobs

__all__ = ["Beam", "BeamSearch", "EarlyStopping"]

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, slots=True)
class Beam:
    """A reply so far.

    Attributes:
        tokens: with their log-probabilities and alternatives. logprob: their sum.
        parent: the beam of the step before that it continues.
        score: by which finished replies are ranked; `logprob` over length to the power of the length penalty.
        stopped: it ended with a stop token, not at the limit.
    """

    tokens: tuple[TokenLogprobs, ...]
    logprob: float
    parent: int
    score: float = -math.inf
    stopped: bool = False


class BeamSearch:
    """Keeps the `width` likeliest beams of each length (Lowerre 1976), and the best replies that have ended.

    Equal sums go to the lower beam, then to the lower token id, so the outcome depends on nothing but the numbers.

    Args:
        width: beams. max_tokens: length at which every beam ends. stop_token_ids: what ends one before that.
        min_tokens: no stop before this many.
        ends: whether a token ends a reply that has come so far, other than by its id; None = nothing does.
        length_penalty: above 0 favours longer replies, below 0 shorter ones; 1 ranks by the mean log-probability.
        early_stopping: True ends as soon as `width` replies have ended; False when no beam could beat them if it
            ended now; "never" when none could beat them however it goes on.
    """

    def __init__(
        self,
        *,
        width: int,
        max_tokens: int,
        stop_token_ids: Collection[int] = (),
        min_tokens: int = 0,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        ends: Callable[[Sequence[TokenLogprobs], int], bool] | None = None,
    ) -> None:
        self.finished: list[Beam] = []  # best first, `width` at most
        self.live: list[Beam] = [Beam((), 0.0, 0)]  # best first
        self._width = width
        self._max_tokens = max_tokens
        self._stop_token_ids = frozenset(stop_token_ids)
        self._min_tokens = min_tokens
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self._ends = ends

    @property
    def num_candidates(self) -> int:
        """How many of each beam's likeliest tokens matter: as many as are kept, if all stop tokens are among them."""
        return self._width + len(self._stop_token_ids)

    @property
    def done(self) -> bool:
        return not self.live

    def advance(self, candidates: Sequence[Sequence[tuple[int, float]]], *, num_top: int = 0) -> list[Beam]:
        """Take the likeliest next tokens of every live beam; returns the beams to go on with, none when it is over.

        Args:
            candidates: `(token id, logprob)` per live beam, best first, `num_candidates` of them or the vocabulary.
            num_top: of these, how many are kept as alternatives in each token of a reply.
        """
        length = len(self.live[0].tokens) + 1
        chosen = self._ranked(candidates, length)
        at_limit = length >= self._max_tokens
        live: list[Beam] = []
        for rank, (logprob, parent, token_id, token_logprob) in enumerate(chosen):
            if rank >= self._width and len(live) == self._width:
                break
            stops = self._stops(parent, token_id, length)
            if (stops or at_limit) and rank >= self._width:
                continue  # only what is among the likeliest may end a reply
            if not (stops or at_limit) and len(live) == self._width:
                continue
            token = TokenLogprobs(token_id, token_logprob, tuple(candidates[parent][:num_top]))
            tokens = (*self.live[parent].tokens, token)
            if stops or at_limit:
                self.finished.append(Beam(tokens, logprob, parent, self._score(logprob, length), stops))
            else:
                live.append(Beam(tokens, logprob, parent))
        self._trim()
        self.live = [] if self._is_over(live, length) else live
        return self.live

    def _stops(self, parent: int, token_id: int, length: int) -> bool:
        if token_id in self._stop_token_ids:
            return True
        if self._ends is None or length < self._min_tokens:
            return False
        return self._ends(self.live[parent].tokens, token_id)

    def _ranked(
        self, candidates: Sequence[Sequence[tuple[int, float]]], length: int
    ) -> list[tuple[float, int, int, float]]:
        """`(sum, beam, token id, logprob)` of every continuation, best first."""
        may_stop = length > self._min_tokens
        extensions = [
            (beam.logprob + logprob, parent, token_id, logprob)
            for parent, (beam, tokens) in enumerate(zip(self.live, candidates, strict=True))
            for token_id, logprob in tokens
            if logprob > -math.inf and (may_stop or token_id not in self._stop_token_ids)
        ]
        return sorted(extensions, key=lambda e: (-e[0], e[1], e[2]))

    def _score(self, logprob: float, length: int) -> float:
        return float(logprob / length**self._length_penalty)

    def _trim(self) -> None:
        """Keep the best; of equal ones the earlier."""
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self._width :]

    def _is_over(self, live: Sequence[Beam], length: int) -> bool:
        if not live:
            return True
        if len(self.finished) < self._width:
            return False
        if self._early_stopping is True:
            return True
        never = self._early_stopping == "never" and self._length_penalty > 0
        reachable = self._max_tokens if never else length
        return self._score(live[0].logprob, reachable) <= self.finished[-1].score
