"""Completions: prompts that go to the model as they are.

Above: the two clients. Below: options and results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from glm_crush.client.call import Call, StreamCall, read_as
from glm_crush.client.chat_options import CompletionOptions, checked_options
from glm_crush.client.refusals import decoded, reported
from glm_crush.client.result import PromptProgress, Result, Usage

__all__ = [
    "Completion",
    "CompletionChoice",
    "CompletionDelta",
    "CompletionScores",
    "Prompt",
    "complete",
    "stream_complete",
]

Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]

_PATH = "/v1/completions"


class CompletionScores(Result, frozen=True):
    """Log-probabilities of tokens, in lists of the same length."""

    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    top_logprobs: tuple[Mapping[str, float] | None, ...] | None = None
    text_offset: tuple[int, ...] = ()


class CompletionChoice(Result, frozen=True):
    """One text; `index` counts through the replies of the first prompt, then of the second. `score` ranks beams."""

    index: int = 0
    text: str = ""
    finish_reason: str | None = None
    logprobs: CompletionScores | None = None
    prompt_logprobs: tuple[Mapping[str, Any] | None, ...] | None = None
    score: float | None = None


class Completion(Result, frozen=True):
    """The texts that go on from the prompts; `text` is the first."""

    id: str = ""
    model: str = ""
    created: int = 0
    choices: tuple[CompletionChoice, ...] = ()
    usage: Usage | None = None
    system_fingerprint: str | None = None

    @property
    def text(self) -> str:
        """The first text."""
        return self.choices[0].text if self.choices else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(choice.text for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        """Why the first one ended."""
        return self.choices[0].finish_reason if self.choices else None


class CompletionDelta(Result, frozen=True):
    """What is new of one choice."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: CompletionScores | None
    progress: PromptProgress | None = None


def complete(prompt: Prompt, **options: Unpack[CompletionOptions]) -> Call[Completion]:
    """Go on from a prompt, or from several: texts, or token ids.

    client.complete("Two and two is", max_tokens=4).text
    """
    body = {"prompt": prompt, **checked_options(options, CompletionOptions)}
    return Call(method="POST", path=_PATH, body=body, parse=read_as(Completion))


def stream_complete(prompt: Prompt, **options: Unpack[CompletionOptions]) -> StreamCall[CompletionDelta, Completion]:
    """Go on from a prompt piece by piece; see `Stream`."""
    body = {"prompt": prompt, **checked_options(options, CompletionOptions)}
    body |= {"stream": True, "stream_options": {"include_usage": True, **body.get("stream_options", {})}}
    return StreamCall(method="POST", path=_PATH, body=body, reader=_CompletionReader)


class _Chunk(Completion, frozen=True):
    prompt_progress: PromptProgress | None = None
    error: dict[str, Any] | None = None


class _CompletionReader:
    def __init__(self) -> None:
        self.is_complete = False
        self._last = _Chunk()
        self._usage: Usage | None = None
        self._choices: dict[int, list[CompletionChoice]] = {}

    def read(self, text: str) -> list[CompletionDelta]:
        if text == "[DONE]":
            self.is_complete = True
            return []
        chunk = decoded(text, _Chunk, "chunk of a completion")
        if chunk.error is not None:
            raise reported(chunk.error)
        self._last = chunk
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._choices.setdefault(choice.index, []).append(choice)
        return [
            CompletionDelta(c.index, c.text, c.finish_reason, c.logprobs, chunk.prompt_progress) for c in chunk.choices
        ]

    def whole(self) -> Completion:
        return Completion(
            id=self._last.id,
            model=self._last.model,
            created=self._last.created,
            system_fingerprint=self._last.system_fingerprint,
            choices=tuple(_joined(index, parts) for index, parts in sorted(self._choices.items())),
            usage=self._usage,
        )


def _joined(index: int, parts: Sequence[CompletionChoice]) -> CompletionChoice:
    scores = [part.logprobs for part in parts if part.logprobs is not None]
    tops = [top for score in scores for top in score.top_logprobs or ()]
    joined = CompletionScores(
        tokens=tuple(token for score in scores for token in score.tokens),
        token_logprobs=tuple(value for score in scores for value in score.token_logprobs),
        top_logprobs=tuple(tops) if tops else None,
        text_offset=tuple(offset for score in scores for offset in score.text_offset),
    )
    return CompletionChoice(
        index=index,
        text="".join(part.text for part in parts),
        finish_reason=next((part.finish_reason for part in reversed(parts) if part.finish_reason), None),
        logprobs=joined if scores else None,
    )
