"""The JSON of replies: whole objects, and stream chunks built from a head that is encoded once a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from glm_crush.engine.output import PromptProgress
from glm_crush.serving.errors import error_reply
from glm_crush.types import Usage

__all__ = ["DONE", "ChunkWriter", "ReplyHead", "error_event", "usage_object"]

DONE = b"data: [DONE]\n\n"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class ReplyHead:
    """What every object and chunk of one reply repeats."""

    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        """The common fields; `kind` is the `object` field."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class ChunkWriter:
    """Encodes the chunks of one stream.

    Args:
        kind: "chat.completion.chunk" or "text_completion".
        include_usage: as OpenAI does, every chunk then has `usage`, null but in the last.
    """

    def __init__(self, head: ReplyHead, kind: str, *, include_usage: bool) -> None:
        fields = json.dumps(head.fields(kind), separators=(",", ":"))
        self._head = f"data: {fields[:-1]},"
        self._tail = ',"usage":null}\n\n' if include_usage else "}\n\n"

    def delta(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: object = None
    ) -> bytes:
        """One chunk of a chat completion."""
        return self._choice(index, f'"delta":{json.dumps(delta, separators=(",", ":"))}', finish_reason, logprobs)

    def text(self, index: int, text: str, finish_reason: str | None = None, logprobs: object = None) -> bytes:
        """One chunk of a text completion."""
        return self._choice(index, f'"text":{json.dumps(text)}', finish_reason, logprobs)

    def usage(self, usage: Usage, num_reasoning_tokens: int = 0, more: Mapping[str, Any] = _NOTHING) -> bytes:
        """The last chunk before [DONE]: no choices, only the counts, and `more` of them."""
        counts = json.dumps({**usage_object(usage, num_reasoning_tokens), **more}, separators=(",", ":"))
        return f'{self._head}"choices":[],"usage":{counts}}}\n\n'.encode()

    def progress(self, index: int, content: Literal["delta", "text"], progress: PromptProgress) -> bytes:
        """A chunk without anything new, that says how far the prompt has been read, as llama-server does."""
        facts = {"total": progress.total, "cache": progress.cached, "processed": progress.processed}
        told = json.dumps({**facts, "time_ms": round(progress.seconds * 1000)}, separators=(",", ":"))
        nothing = '"delta":{}' if content == "delta" else '"text":""'
        return self._choice(index, nothing, None, None, f',"prompt_progress":{told}')

    def _choice(self, index: int, content: str, finish_reason: str | None, logprobs: object, more: str = "") -> bytes:
        reason = "null" if finish_reason is None else f'"{finish_reason}"'
        probabilities = "null" if logprobs is None else json.dumps(logprobs, separators=(",", ":"))
        return (
            f'{self._head}"choices":[{{"index":{index},{content},"logprobs":{probabilities},'
            f'"finish_reason":{reason}}}]{more}{self._tail}'
        ).encode()


def usage_object(usage: Usage, num_reasoning_tokens: int = 0) -> dict[str, Any]:
    """OpenAI's `usage`, with the cached part of the prompt, the reasoning in the reply and what was guessed of it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": num_reasoning_tokens,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
        },
    }


def error_event(error: BaseException) -> bytes:
    """What a stream that has begun sends instead of its rest; OpenAI's clients raise on it."""
    return f"data: {json.dumps(error_reply(error).body())}\n\n".encode()
