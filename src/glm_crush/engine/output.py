"""What the engine says about a request after each step, and the whole of it at the end.

Above: `llm`, `chat` and the protocol adapters. Below: `types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from glm_crush.engine.request import Request
from glm_crush.errors import EngineError
from glm_crush.types import CacheReport, CompletionOutput, FinishReason, RequestOutput, TokenLogprobs, Usage

__all__ = ["OutputCollector", "PromptProgress", "RequestDelta", "RequestStats"]


@dataclass(frozen=True, slots=True)
class RequestStats:
    """One finished reply in numbers; times in seconds since the request arrived.

    Attributes:
        num_cached_tokens: prompt tokens that had been computed before.
        cache_report: why it was not more; None without a prefix cache.
        num_drafted_tokens, num_accepted_tokens: tokens guessed ahead and verified, and those of them in the reply.
        queue_seconds: until its first step. time_to_first_token_seconds: None when there was no token.
    """

    num_prompt_tokens: int
    num_output_tokens: int
    num_preemptions: int
    queue_seconds: float | None
    time_to_first_token_seconds: float | None
    elapsed_seconds: float
    num_cached_tokens: int = 0
    cache_report: CacheReport | None = None
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0

    @classmethod
    def of(cls, request: Request, now: float) -> RequestStats:
        arrival, first, token = request.arrival_time, request.first_scheduled_time, request.first_token_time
        return cls(
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=request.num_output_tokens,
            num_preemptions=request.num_preemptions,
            queue_seconds=None if first is None else first - arrival,
            time_to_first_token_seconds=None if token is None else token - arrival,
            elapsed_seconds=now - arrival,
            num_cached_tokens=request.num_cached_tokens,
            cache_report=request.cache_report,
            num_drafted_tokens=request.num_drafted_tokens,
            num_accepted_tokens=request.num_accepted_tokens,
        )


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of a prompt has been read: `processed` of `total` tokens, `cached` of which had been computed before.

    `seconds` since its first step.
    """

    total: int
    cached: int
    processed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestDelta:
    """What one step added to one reply.

    Attributes:
        index: of the reply among the `n` of its request.
        token_ids: new tokens. text: new text that no stop string can take back any more.
        logprobs: of `token_ids`, if asked for. prompt_logprobs: of the whole prompt, once, with the first token.
        finish_reason: set in the last delta of a reply, together with `stats`.
        stop_reason: the stop string or id that ended it; None for an end-of-text id.
        error: the reply ended because of this. score: what beam search ranked the reply by.
        progress: of the prompt, if asked for; such a delta holds nothing else.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    stats: RequestStats | None = None
    error: EngineError | None = None
    score: float | None = None
    progress: PromptProgress | None = None


@dataclass
class _Reply:
    token_ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    last: RequestDelta | None = None


class OutputCollector:
    """Puts the deltas of one request together."""

    def __init__(self, request_id: str, prompt_token_ids: Sequence[int], *, n: int = 1) -> None:
        self.request_id = request_id
        self.error: EngineError | None = None
        self._prompt_token_ids = tuple(prompt_token_ids)
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        self._replies = [_Reply() for _ in range(n)]
        self._num_open = n

    @property
    def finished(self) -> bool:
        return self._num_open == 0

    def add(self, delta: RequestDelta) -> None:
        reply = self._replies[delta.index]
        reply.token_ids += delta.token_ids
        if delta.text:
            reply.text.append(delta.text)
        if delta.logprobs is not None:
            reply.logprobs = reply.logprobs or []
            reply.logprobs += delta.logprobs
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            reply.last = delta
            self._num_open -= 1
            self.error = self.error or delta.error

    def output(self) -> RequestOutput:
        """Everything so far."""
        stats = [reply.last.stats for reply in self._replies if reply.last is not None and reply.last.stats is not None]
        # Of several replies the first may have computed what the others found.
        least = min(stats, key=lambda s: s.num_cached_tokens, default=None)
        num_accepted = sum(s.num_accepted_tokens for s in stats)
        first_tokens = [s.time_to_first_token_seconds for s in stats if s.time_to_first_token_seconds is not None]
        return RequestOutput(
            request_id=self.request_id,
            prompt_token_ids=self._prompt_token_ids,
            outputs=tuple(_completion(index, reply) for index, reply in enumerate(self._replies)),
            usage=Usage(
                prompt_tokens=len(self._prompt_token_ids),
                completion_tokens=sum(len(reply.token_ids) for reply in self._replies),
                cached_tokens=0 if least is None else least.num_cached_tokens,
                accepted_prediction_tokens=num_accepted,
                rejected_prediction_tokens=sum(s.num_drafted_tokens for s in stats) - num_accepted,
            ),
            prompt_logprobs=self._prompt_logprobs,
            time_to_first_token_seconds=min(first_tokens, default=None),
            elapsed_seconds=max((s.elapsed_seconds for s in stats), default=None),
            cache_report=None if least is None else least.cache_report,
        )


def _completion(index: int, reply: _Reply) -> CompletionOutput:
    return CompletionOutput(
        index=index,
        text="".join(reply.text),
        token_ids=tuple(reply.token_ids),
        finish_reason=None if reply.last is None else reply.last.finish_reason,
        stop_reason=None if reply.last is None else reply.last.stop_reason,
        logprobs=None if reply.logprobs is None else tuple(reply.logprobs),
        score=None if reply.last is None else reply.last.score,
    )
