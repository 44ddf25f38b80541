"""Who answers in `glm run` and `glm chat`: a model in this process, or a server somewhere.

Above: the verbs and the chat loop, which see only `ChatBackend`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from glm_crush.chat.cache_explanation import CacheExplanation
from glm_crush.config import ContextPolicy
from glm_crush.types import FinishReason, Message, SamplingParams

__all__ = ["ChatBackend", "ReplyStats", "Turn"]


@dataclass(frozen=True, kw_only=True)
class ReplyStats:
    """What a reply cost; times in seconds.

    Attributes:
        drafted_tokens, accepted_tokens: guessed ahead, and those of them in the reply.
        context_note: what was left out of the conversation; "" = nothing.
        context_length: largest prompt and reply; None = not known.
        cache: where and why the prompt left what was cached; None = not known.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    time_to_first_token_seconds: float
    elapsed_seconds: float
    finish_reason: FinishReason | None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    context_note: str = ""
    context_length: int | None = None
    cache: CacheExplanation | None = None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first, over the time they took; None for a single token."""
        seconds = self.elapsed_seconds - self.time_to_first_token_seconds
        return (self.completion_tokens - 1) / seconds if self.completion_tokens > 1 and seconds > 0 else None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Prompt tokens that were computed, over the time to the first token."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.time_to_first_token_seconds if self.time_to_first_token_seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One thing to answer.

    Attributes:
        messages: a conversation; empty when `raw_prompt` is given, which goes to the model as it is.
        params: None = the model's own defaults, with no limit but the context.
        thinking: None = as the model's template does by itself.
        context_policy: what becomes of messages that do not fit.
        best_of: replies that are made; the likeliest is the answer.
    """

    messages: Sequence[Message] = ()
    raw_prompt: str | None = None
    params: SamplingParams
    thinking: bool | None = None
    best_of: int = 1
    context_policy: ContextPolicy = "refuse"


class ChatBackend(Protocol):
    """Answers turns as streams of text."""

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    @property
    def default_params(self) -> SamplingParams:
        """The model's published sampling, for what the user does not set."""
        ...

    def facts(self) -> dict[str, str]:
        """What `/show` prints about the model."""
        ...

    def reply(self, turn: Turn) -> Generator[str, None, ReplyStats]:
        """Yield pieces of text; returns the statistics. Closing the generator stops the model.

        Raises:
            GlmError: the turn cannot be answered.
        """
        ...
