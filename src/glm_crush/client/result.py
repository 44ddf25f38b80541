"""The base of results: frozen values with the names that the API has.

Above: the results of each part of the API. Below: msgspec. A field that a server sends and this version does not know
is left out; one that it does not send has its default.
"""

from __future__ import annotations

from typing import Any

import msgspec

from glm_crush.config import ContextPolicy
from glm_crush.types import ContextNote

__all__ = ["ContextReport", "Deleted", "PromptProgress", "Result", "Usage"]


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values, without what is as by default."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


class _PromptDetails(Result, frozen=True):
    cached_tokens: int | None = None


class _ReplyDetails(Result, frozen=True):
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class ContextReport(Result, frozen=True):
    """What was done to a conversation that was too long; see `ContextNote`."""

    policy: ContextPolicy
    context_length: int
    prompt_tokens_before: int
    prompt_tokens: int
    dropped_messages: tuple[int, ...] = ()
    shortened_message: int | None = None
    summary: str | None = None

    def describe(self) -> str:
        """One line for people."""
        note = ContextNote(
            policy=self.policy,
            context_length=self.context_length,
            num_tokens_before=self.prompt_tokens_before,
            num_tokens=self.prompt_tokens,
            dropped=self.dropped_messages,
            shortened=self.shortened_message,
            summary=self.summary,
        )
        return note.describe()


class Usage(Result, frozen=True):
    """Token counts of a reply; `context` of a conversation that was shortened."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _ReplyDetails | None = None
    context: ContextReport | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not computed again."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def reasoning_tokens(self) -> int:
        """Reply tokens that are reasoning."""
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0

    @property
    def accepted_tokens(self) -> int:
        """Reply tokens that were guessed ahead."""
        return (self.completion_tokens_details and self.completion_tokens_details.accepted_prediction_tokens) or 0

    @property
    def drafted_tokens(self) -> int:
        """Tokens that were guessed ahead, right or wrong."""
        rejected = self.completion_tokens_details and self.completion_tokens_details.rejected_prediction_tokens
        return self.accepted_tokens + (rejected or 0)


class PromptProgress(Result, frozen=True):
    """How far a prompt has been read: `processed` of `total` tokens, `cache` of which had been computed before."""

    total: int
    cache: int
    processed: int
    time_ms: int


class Deleted(Result, frozen=True):
    """That something is gone."""

    id: str
    deleted: bool
