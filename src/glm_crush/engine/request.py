"""A request inside the engine: its tokens and how far it has been computed.

Above: the scheduler moves requests through a step, the engine creates and ends them. This module knows
neither arrays nor models.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from glm_crush.engine.prefix_cache import Prefix
from glm_crush.types import CacheReport, FinishReason, SamplingParams, TokenLogprobs

__all__ = ["LoadedAdapter", "Request", "RequestStatus"]


class RequestStatus(Enum):
    """Where a request stands. A preempted request is WAITING again; a PENDING one is in no queue, before a fork."""

    PENDING = auto()
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that requests can use.

    Attributes:
        slot: what the executor calls it.
        salt: keeps the computed prompts of its requests apart from all others; follows from its content.
    """

    name: str
    slot: int
    salt: bytes


class Request:
    """One reply in the making; a call with `n` replies is `n` of these with the same `request_id`.

    Attributes:
        token_ids: prompt and reply back to back, 4 bytes a token (queues may be long).
        num_computed_tokens: tokens whose keys and values are in the cache; it chases `num_tokens`.
        block_table: cache blocks in order of position; a new list at every admission.
        max_tokens: reply length at which the request ends, resolved against the context.
        stop_token_ids: ids that end the reply, end-of-text ids included unless ignored.
        seed: of the random stream, resolved; differs between the replies of one call.
        priority: lower goes first; equal priorities go in order of `arrival`, the replies of one call by `index`.
        tenant: on whose behalf; tenants share the engine fairly.
        adapter_slot: of its LoRA adapter in the executor; -1 = none.
        num_logprobs: alternatives that are reported with each drawn token; None = nothing, not even its own.
        prompt_logprobs: one entry per prompt token computed so far when they are wanted (the first is None).
        prefix: how much of its tokens the prefix cache knows.
        num_cached_tokens: prompt tokens that were found there at the first admission.
        num_restored_tokens: tokens that came there from disk for this request; None = nobody has looked.
        num_drafted_tokens, num_accepted_tokens: tokens guessed ahead and verified, and those of them in the reply.
        cache_report: why it was not more; None before that, and without a cache.
    """

    __slots__ = (
        "adapter_slot",
        "arrival",
        "arrival_time",
        "block_table",
        "cache_report",
        "finish_reason",
        "first_scheduled_time",
        "first_token_time",
        "index",
        "max_tokens",
        "num_accepted_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_drafted_tokens",
        "num_logprobs",
        "num_preemptions",
        "num_prompt_tokens",
        "num_restored_tokens",
        "params",
        "prefix",
        "priority",
        "prompt_logprobs",
        "request_id",
        "seed",
        "status",
        "stop_token_ids",
        "tenant",
        "token_ids",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        max_tokens: int,
        stop_token_ids: frozenset[int] = frozenset(),
        seed: int = 0,
        index: int = 0,
        priority: int = 0,
        arrival_time: float = 0.0,
        cache_salt: str = "",
        tenant: str = "",
        adapter: LoadedAdapter | None = None,
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.params = params
        self.max_tokens = max_tokens
        self.stop_token_ids = stop_token_ids
        self.seed = seed
        self.priority = priority
        self.tenant = tenant
        self.token_ids = array("i", prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.num_computed_tokens = 0
        self.block_table: list[int] = []
        self.status = RequestStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.num_logprobs = params.logprobs
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None if params.prompt_logprobs is None else [None]
        self.adapter_slot = -1 if adapter is None else adapter.slot
        self.prefix = Prefix((b"" if adapter is None else adapter.salt) + cache_salt.encode())
        self.num_cached_tokens = 0
        self.num_restored_tokens: int | None = None
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0
        self.cache_report: CacheReport | None = None
        self.arrival = -1  # set by the scheduler: the call's place in the queue among equal priorities
        self.num_preemptions = 0
        self.arrival_time = arrival_time
        self.first_scheduled_time: float | None = None
        self.first_token_time: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt and reply."""
        return len(self.token_ids)

    @property
    def is_held(self) -> bool:
        """Whether all of its tokens are computed: it has drawn, and waits for others to know what to go on with."""
        return self.num_computed_tokens == len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_num_cached_tokens(self) -> int:
        """Cache entries at the very end; the last token of a reply is never computed."""
        return self.num_prompt_tokens + self.max_tokens - 1

    @property
    def num_skippable_tokens(self) -> int:
        """Tokens that need no computing where cached; the last does, for its logits, and so does what is scored."""
        if self.prompt_logprobs is None or len(self.prompt_logprobs) == self.num_prompt_tokens:
            return len(self.token_ids) - 1
        return len(self.prompt_logprobs) - 1

    @property
    def needs_single_steps(self) -> bool:
        """Whether what it may draw depends on the token before in ways that the executor does not follow by itself."""
        params = self.params
        return (
            self.num_logprobs is not None
            or params.structured is not None
            or params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
            or self.num_output_tokens < params.min_tokens
        )

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key of the queues: who goes first."""
        return (self.priority, self.arrival, self.index)

    def add_prompt_logprobs(self, logprobs: TokenLogprobs) -> None:
        """Record the next prompt token's."""
        assert self.prompt_logprobs is not None
        self.prompt_logprobs.append(logprobs)

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}/{self.index}, {self.status.name.lower()}, "
            f"{self.num_computed_tokens} of {self.num_tokens} computed, {self.num_output_tokens} new)"
        )
