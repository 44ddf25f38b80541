"""A chat backend that talks to a server with the OpenAI API: ours, or any other."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from glm_crush.cli.backend import ReplyStats, Turn
from glm_crush.errors import GlmError, ModelNotFoundError
from glm_crush.types import FinishReason, SamplingParams

if TYPE_CHECKING:
    from glm_crush.client import Client, Usage

__all__ = ["ReasoningTags", "RemoteBackend"]

# What OpenAI's own API knows; the rest is sent only if it was changed, since other servers may refuse it.
_ALWAYS = ("temperature", "top_p", "max_tokens")
_NEVER = ("n", "logprobs", "prompt_logprobs", "skip_special_tokens")


class ReasoningTags:
    """Puts reasoning, which servers send in a field of its own, between the tags that models write it in."""

    def __init__(self) -> None:
        self._open = False

    def text(self, reasoning: str, content: str) -> str:
        """The text of one delta."""
        opening = "<think>" if reasoning and not self._open else ""
        self._open = self._open or bool(reasoning)
        closing = "</think>\n" if content and self._open else ""
        self._open = self._open and not closing
        return f"{opening}{reasoning}{closing}{content}"


class RemoteBackend:
    """One model of one server; the client is closed with the backend.

    Args:
        client: of the server.
        model: its name there; None = the server's first model.

    Raises:
        GlmError: the server cannot be reached, or has no such model.
    """

    def __init__(self, client: Client, *, model: str | None = None) -> None:
        self._client = client
        # A server does not say what its model's publisher recommends: the preset for conversations.
        self.default_params = SamplingParams(max_tokens=None).with_preset("chat")
        try:
            self.name = self._choose(model)
        except GlmError:
            self.close()
            raise

    def facts(self) -> dict[str, str]:
        """Where the model is."""
        return {"model": self.name, "server": self._client.url}

    def reply(self, turn: Turn) -> Generator[str, None, ReplyStats]:
        """Stream a reply; see `ChatBackend.reply`."""
        started = time.perf_counter()
        first: float | None = None
        usage: Usage | None = None
        reason: str | None = None
        for text, usage, reason in self._pieces(turn):  # noqa: B007 - the last ones count
            if text:
                first = first or time.perf_counter()
                yield text
        now = time.perf_counter()
        return ReplyStats(
            prompt_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=usage.cached_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            time_to_first_token_seconds=(first or now) - started,
            elapsed_seconds=now - started,
            finish_reason=cast("FinishReason | None", reason),
            context_note=usage.context.describe() if usage and usage.context else "",
            drafted_tokens=usage.drafted_tokens if usage else 0,
            accepted_tokens=usage.accepted_tokens if usage else 0,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _pieces(self, turn: Turn) -> Generator[tuple[str, Usage | None, str | None], None, None]:
        """Text as it comes, with the counts and the reason so far; the last piece has no text."""
        options = self._options(turn)
        if turn.raw_prompt is not None:
            with self._client.stream_complete(turn.raw_prompt, **{"max_tokens": 2**20, **options}) as completion:
                for part in completion:
                    yield part.text, None, None
                yield "", completion.reply.usage, completion.reply.finish_reason
            return
        tagged = ReasoningTags()
        with self._client.stream_chat(turn.messages, **options) as chat:
            for delta in chat:
                yield tagged.text(delta.reasoning, delta.content), None, None
            yield "", chat.reply.usage, chat.reply.finish_reason

    def _options(self, turn: Turn) -> dict[str, Any]:
        options: dict[str, Any] = {"model": self.name}
        for spec in fields(turn.params):
            value = getattr(turn.params, spec.name)
            changed = value != getattr(self.default_params, spec.name)
            if spec.name not in _NEVER and (changed or (spec.name in _ALWAYS and value is not None)):
                options[spec.name] = list(value) if isinstance(value, tuple) else value
        if turn.raw_prompt is None:
            options["thinking"] = turn.thinking
            if turn.context_policy != "refuse":  # other servers do not know it
                options["context_policy"] = turn.context_policy
        return options

    def _choose(self, model: str | None) -> str:
        listed = [entry.id for entry in self._client.models.list()]
        if not listed:
            raise ModelNotFoundError(f"{self._client.url} serves no model")
        if model is not None and model not in listed:
            raise ModelNotFoundError(f"{self._client.url} does not serve {model!r}; it serves {', '.join(listed)}")
        return model or listed[0]
