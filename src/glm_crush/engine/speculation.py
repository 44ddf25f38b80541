"""Speculation: guess the next tokens of replies, verify them in one step, keep what a plain run would have drawn.

A step computes logits behind every guess as if the ones before were right, and draws from each as the plain run would
there: same counter, penalties, bias and mask. A guess counts when it equals the token drawn before it. So the reply is
the same to the last bit, and only the number of steps changes. Here it is decided who guesses how far: see
`draft_lengths` for the sum and `draft_record` for what it is based on. Above: the engine. Below: a `Drafter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from glm_crush.engine.draft_lengths import StepCosts, choose_lengths
from glm_crush.engine.draft_record import DraftRecord
from glm_crush.engine.grammar import GrammarState
from glm_crush.engine.request import Request
from glm_crush.engine.scheduled_batch import ScheduledBatch

__all__ = ["Drafter", "Speculation"]

_ANY_NUMBER = 2**31
# A reply that was copying until a moment ago may go on with it: calls stay short enough to notice.
_STEPS_WHILE_HOPEFUL = 2
# How often the text that a grammar forces is cut into the tokens that we expect.
_FORCED_RATE = 0.95


class Drafter(Protocol):
    """Guesses what comes next. It keeps what it needs to know about a request until it is told to forget it.

    Attributes:
        first_rates: how many of its guesses are right until one has seen, for each certainty, the least certain first.
        max_length: of a guess.
        follows_steps: it must `observe` every single step, and `draft` is called before each, if only for nobody.
    """

    first_rates: Sequence[float]
    max_length: int = _ANY_NUMBER
    follows_steps: bool = False

    def certainty(self, request: Request) -> int | None:
        """How certain a guess of the request's next tokens would be, an index of `first_rates`; None: it has none."""

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        """Guess up to so many tokens of each request, whose `certainty` was asked for just before."""

    def forget(self, request: Request) -> None:
        """The request has ended; nothing happens when it is unknown."""

    def observe(self, batch: ScheduledBatch) -> None:  # noqa: ARG002 (most need not look)
        """A step was computed, and the requests have what it yielded."""
        return


class Speculation:
    """Decides for every step which requests' tokens are guessed ahead, and how many.

    Attributes:
        max_decode_steps: tokens that the next call may draw per request if there are no drafts.
    """

    def __init__(self, drafter: Drafter, *, max_tokens: int) -> None:
        """Args: max_tokens: longest draft of one request."""
        assert max_tokens > 0
        self.max_decode_steps = _ANY_NUMBER
        self._drafter = drafter
        self._max_tokens = min(max_tokens, drafter.max_length)
        self._costs = StepCosts()
        # Over all requests: what a new one starts from. The last is for what a grammar forces.
        self._rates = [*drafter.first_rates, _FORCED_RATE]
        self._records: dict[Request, DraftRecord] = {}
        self._certainties: dict[Request, int] = {}  # of the drafts under way
        self._forced: dict[Request, list[int]] = {}  # by grammars, now

    def propose(
        self, running: Sequence[Request], grammars: Mapping[Request, GrammarState], *, prompts_waiting: bool = False
    ) -> dict[Request, Sequence[int]]:
        """Drafts for those of the running requests where they are likely to pay; ends where a grammar forbids them.

        Beside prompts there are none: such a step is bound by arithmetic, where a prompt's token is sure to be needed
        and a guess is not. `prompts_waiting`: whether some may join in this step.
        """
        decoding = [r for r in running if r.num_tokens - r.num_computed_tokens == 1 and r.num_output_tokens > 0]
        if prompts_waiting or len(decoding) < len(running):
            decoding = []
        self.max_decode_steps = 1 if self._drafter.follows_steps else _ANY_NUMBER
        candidates: list[Request] = []
        self._certainties, self._forced = {}, {}
        for request in decoding:
            certainty = self._certainty(request, grammars.get(request)) if _max_drafts(request) > 0 else None
            if certainty is not None:
                candidates.append(request)
                self._certainties[request] = certainty
            elif request in self._records and self._records[request].is_hopeful(request.num_output_tokens):
                self.max_decode_steps = min(self.max_decode_steps, _STEPS_WHILE_HOPEFUL)
        lengths = self._choose_lengths(candidates, len(decoding)) if candidates else {}
        if not lengths and not self._drafter.follows_steps:
            return {}
        drafts = self._drafter.draft({r: length for r, length in lengths.items() if r not in self._forced})
        for request in drafts.keys() & grammars.keys():
            drafts[request] = drafts[request][: grammars[request].count_allowed(drafts[request])]
        for request in lengths.keys() & self._forced.keys():
            drafts[request] = self._forced[request][: lengths[request]]
        return {request: tokens for request, tokens in drafts.items() if tokens}

    def record(self, batch: ScheduledBatch, num_accepted: Mapping[Request, int], seconds: float) -> None:
        """Learn from a step: what it cost, and which drafts were right."""
        self._drafter.observe(batch)
        num_drafts = sum(len(part.drafts) for part in batch.requests)
        if batch.requests and all(part.samples and part.num_tokens - len(part.drafts) == 1 for part in batch.requests):
            self._costs.record(len(batch.requests), num_drafts, seconds / batch.num_decode_steps)
        if not num_drafts:
            return
        for part in batch.requests:
            record = self._records.get(part.request)
            if part.drafts and record is not None:  # else the request has ended
                certainty = self._certainties[part.request]
                rate = record.note(
                    certainty, num_accepted[part.request], len(part.drafts), part.request.num_output_tokens
                )
                self._rates[certainty] += 0.05 * (rate - self._rates[certainty])

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._records.pop(request, None)
        self._drafter.forget(request)

    def _certainty(self, request: Request, grammar: GrammarState | None) -> int | None:
        """What the grammar forces is the best guess there is; else it is the drafter's."""
        certainty = self._drafter.certainty(request)
        forced = [] if grammar is None else grammar.forced()
        if not forced:
            return certainty
        self._forced[request] = forced
        return len(self._drafter.first_rates)

    def _choose_lengths(self, candidates: Sequence[Request], num_seqs: int) -> dict[Request, int]:
        records = [self._record_of(request) for request in candidates]
        rates = [record.rates[self._certainties[request]] for record, request in zip(records, candidates, strict=True)]
        limits = [min(self._max_tokens, _max_drafts(request)) for request in candidates]
        lengths = choose_lengths(rates, limits, num_seqs=num_seqs, share=self._costs.share_per_draft(num_seqs))
        for place, (record, request) in enumerate(zip(records, candidates, strict=True)):
            if lengths[place] == 0 and record.may_probe(request.num_output_tokens):
                lengths[place] = 1
        return {request: length for request, length in zip(candidates, lengths, strict=True) if length}

    def _record_of(self, request: Request) -> DraftRecord:
        record = self._records.get(request)
        if record is None:
            record = self._records[request] = DraftRecord(self._rates)
        return record


def _max_drafts(request: Request) -> int:
    """A reply's last token is drawn, never guessed."""
    return request.max_tokens - request.num_output_tokens - 1
