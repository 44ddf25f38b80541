"""One call that is answered by beam search: a request for each beam, forked from one another at every step.

Above: the engine. Below: `beam_search`, which decides, and the scheduler, which forks. A beam that has drawn is held
until all have; then the search says which of them go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glm_crush.engine.beam_search import BeamSearch
from glm_crush.engine.output import RequestDelta, RequestStats
from glm_crush.engine.reply import MakeDetokenizer
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.scheduler import Scheduler
from glm_crush.engine.stop import StopStrings
from glm_crush.errors import ContextLengthError, EngineError, InvalidParameterError
from glm_crush.types import FinishReason, SamplingParams, TokenLogprobs

__all__ = ["BeamGroup", "check_beams", "most_beam_tokens", "most_tokens"]


def most_beam_tokens(num_prompt_tokens: int, width: int, scheduler: Scheduler) -> int:
    """The longest replies for which all beams of a call fit into the KV cache together; may be less than 1."""
    size = scheduler.block_size
    # Beams that lost their blocks find the prompt in the cache, if there is one; the rest is each one's own, and one
    # block for each is kept free.
    num_shared = 0 if scheduler.prefix_cache is None else num_prompt_tokens // size
    num_blocks = (scheduler.capacity // size - num_shared) // width - 1 + num_shared
    return num_blocks * size - num_prompt_tokens + 1


def check_beams(first: Request, scheduler: Scheduler) -> None:
    """Raises RequestError when the beams of a call can never run here together; states the numbers."""
    width = first.params.beam_width or 1
    if width > scheduler.limits.max_num_seqs:
        raise InvalidParameterError(
            f"beam_width is {width} and {scheduler.limits.max_num_seqs} requests run at the same time; "
            "lower it or raise max_num_seqs",
            parameter="beam_width",
        )
    most = most_beam_tokens(first.num_prompt_tokens, width, scheduler)
    if first.max_tokens > most:
        raise ContextLengthError(
            f"The prompt has {first.num_prompt_tokens} tokens and max_tokens is {first.max_tokens}; the KV cache holds "
            f"{scheduler.capacity} tokens, which is room for {max(0, most)} in each of {width} beams. "
            "Lower beam_width or max_tokens, or raise kv_cache_tokens.",
            parameter="max_tokens" if most > 0 else "prompt",
        )


class BeamGroup:
    """The requests of one call's beams.

    Args:
        requests: as many as there are beams; the first computes the prompt, the others wait to be forked.
        params: of the call.
        make_detokenizer: see `MakeDetokenizer`; None = no text, and no stop strings.

    Attributes:
        num_replies: that are returned, the best ones.
    """

    def __init__(
        self, requests: Sequence[Request], params: SamplingParams, make_detokenizer: MakeDetokenizer | None
    ) -> None:
        self.requests = list(requests)
        first = self.requests[0]
        self._make_detokenizer = make_detokenizer
        self.num_replies = params.n
        self._num_logprobs = params.logprobs
        self._params = params
        self._search = BeamSearch(
            width=len(requests),
            max_tokens=first.max_tokens,
            stop_token_ids=first.stop_token_ids,
            min_tokens=params.min_tokens,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            ends=self._ends if params.stop and make_detokenizer is not None else None,
        )
        for request in self.requests:
            request.num_logprobs = self._search.num_candidates
        for request in self.requests[1:]:
            request.status = RequestStatus.PENDING
        self._live = [first]
        self._drawn: dict[Request, TokenLogprobs] = {}

    @property
    def done(self) -> bool:
        return self._search.done

    def record(self, request: Request, logprobs: TokenLogprobs, scheduler: Scheduler) -> None:
        """Take what a beam could go on with; when all have told, choose and fork."""
        self._drawn[request] = logprobs
        if len(self._drawn) == len(self._live):
            self._advance(scheduler)

    def replies(self, stats: RequestStats) -> list[RequestDelta]:
        """The best replies, each as one delta, once the search is done."""
        request = self.requests[0]
        deltas = []
        for index, beam in enumerate(self._search.finished[: self.num_replies]):
            ids = tuple(token.token_id for token in beam.tokens)
            by_id = beam.stopped and ids[-1] in request.stop_token_ids
            text, matched = self._text(ids[:-1] if by_id else ids)
            reason: FinishReason = "stop" if beam.stopped or matched is not None else "length"
            named = by_id and ids[-1] in self._params.stop_token_ids
            deltas.append(
                RequestDelta(
                    request.request_id,
                    index,
                    ids,
                    text,
                    logprobs=None if self._num_logprobs is None else beam.tokens,
                    finish_reason=reason,
                    stop_reason=ids[-1] if named else matched,
                    prompt_logprobs=None if request.prompt_logprobs is None else tuple(request.prompt_logprobs),
                    stats=replace(stats, num_output_tokens=len(ids)),
                    score=beam.score,
                )
            )
        error = EngineError(
            f"Beam search found {len(deltas)} replies and n is {self.num_replies}: no more tokens can be drawn. "
            "Lower n, or check the model's weights."
        )
        missing = range(len(deltas), self.num_replies)
        return deltas + [self._ended(index, stats, error) for index in missing]

    def aborted(self, stats: RequestStats) -> list[RequestDelta]:
        """The last delta of each reply when the call ends before the search."""
        return [self._ended(index, stats, None) for index in range(self.num_replies)]

    def _ended(self, index: int, stats: RequestStats, error: EngineError | None) -> RequestDelta:
        request_id = self.requests[0].request_id
        return RequestDelta(request_id, index, (), "", finish_reason="abort", stats=stats, error=error)

    def _text(self, token_ids: Sequence[int]) -> tuple[str, str | None]:
        """The text of a reply up to the stop string in it, and which that is."""
        if self._make_detokenizer is None:
            return "", None
        detokenizer = self._make_detokenizer(self._prompt(), self._params.skip_special_tokens)
        stop = StopStrings(self._params.stop)
        text = stop.push("".join(map(detokenizer.add, token_ids)) + detokenizer.finish())
        return text + stop.flush(), stop.matched

    def _ends(self, tokens: Sequence[TokenLogprobs], token_id: int) -> bool:
        """Whether a stop string is complete with this token: one that was before would have ended the beam."""
        assert self._make_detokenizer is not None
        longest = max(map(len, self._params.stop))
        detokenizer = self._make_detokenizer(self._prompt(), self._params.skip_special_tokens)
        # Each token has a byte at least, and a character four at most; special ones, which have none, are few.
        tail = [token.token_id for token in tokens[-4 * longest - 16 :]]
        text = "".join(map(detokenizer.add, [*tail, token_id]))
        return any(stop in text for stop in self._params.stop)

    def _prompt(self) -> Sequence[int]:
        return self.requests[0].token_ids[: self.requests[0].num_prompt_tokens]

    def _advance(self, scheduler: Scheduler) -> None:
        candidates = [self._drawn[request].top for request in self._live]
        self._drawn.clear()
        beams = self._search.advance(candidates, num_top=self._num_logprobs or 0)
        if not beams:
            return
        continued = {beam.parent for beam in beams}
        for place, request in enumerate(self._live):
            if place not in continued:
                scheduler.withdraw(request)
        in_use = {self._live[place] for place in continued}
        free = [request for request in self.requests if request not in in_use]
        free.reverse()
        live: list[Request] = []
        for beam in beams:
            parent = self._live[beam.parent]
            if parent in in_use:  # its first child takes its place
                in_use.remove(parent)
                live.append(parent)
            else:
                child = free.pop()
                child.first_scheduled_time = parent.first_scheduled_time
                child.first_token_time = parent.first_token_time
                scheduler.fork(parent, child)
                live.append(child)
        for request, beam in zip(live, beams, strict=True):
            request.token_ids.append(beam.tokens[-1].token_id)
        self._live = live


def most_tokens(num_prompt_tokens: int, params: SamplingParams, scheduler: Scheduler) -> int:
    """The longest reply that fits."""
    most = scheduler.max_request_tokens - num_prompt_tokens
    if params.beam_width is not None:
        most = min(most, most_beam_tokens(num_prompt_tokens, params.beam_width, scheduler))
    return max(1, most)
