"""Replies of chats: whole, and as the deltas of a stream.

Above: `chats`. Below: `result`. Fields have OpenAI's names; what most programs want of the first choice is at hand as
properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from glm_crush.client.refusals import decoded, reported
from glm_crush.client.result import PromptProgress, Result, Usage
from glm_crush.errors import ProtocolError
from glm_crush.types import Message

__all__ = ["ChatChoice", "ChatDelta", "ChatReader", "ChatReply", "TokenScore", "ToolCall", "ToolCallDelta"]


class ToolCall(NamedTuple):
    """A function that the model wants called; `arguments` is JSON."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> Any:
        """The arguments as values. Raises ProtocolError when the reply was cut within them."""
        try:
            return msgspec.json.decode(self.arguments)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the arguments of {self.name} are no JSON: {self.arguments!r:.200}") from error


class TokenScore(Result, frozen=True):
    """Log-probability of a token, and of the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[TokenScore, ...] = ()


class _Scores(Result, frozen=True):
    content: tuple[TokenScore, ...] | None = None


class _Function(Result, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(Result, frozen=True):
    id: str | None = None
    index: int = 0
    function: _Function = _Function()


class _Said(Result, frozen=True):
    """What a message or a delta says; servers send reasoning under either name, or under both."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class ChatChoice(Result, frozen=True):
    """One of the `n` replies."""

    index: int = 0
    message: _Said = _Said()
    finish_reason: str | None = None
    logprobs: _Scores | None = None

    @property
    def content(self) -> str:
        """The text."""
        return self.message.content or ""

    @property
    def reasoning(self) -> str:
        """What the model thought first."""
        return self.message.reasoning_content or self.message.reasoning or ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The functions it wants called."""
        calls = self.message.tool_calls or ()
        return tuple(ToolCall(c.id or "", c.function.name or "", c.function.arguments or "") for c in calls)

    @property
    def scores(self) -> tuple[TokenScore, ...]:
        """Of each token, if `logprobs` were asked for."""
        return (self.logprobs and self.logprobs.content) or ()

    def as_message(self) -> Message:
        """The reply as a message, to go on with."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message


class ChatReply(Result, frozen=True):
    """A reply: its choices, of which `content`, `reasoning`, `tool_calls` and `finish_reason` are the first's."""

    id: str = ""
    model: str = ""
    created: int = 0
    choices: tuple[ChatChoice, ...] = ()
    usage: Usage | None = None
    system_fingerprint: str | None = None
    prompt_logprobs: tuple[Mapping[str, Any] | None, ...] | None = None

    @property
    def first(self) -> ChatChoice:
        """The first choice, of which there may be none in a stream that has not begun."""
        return self.choices[0] if self.choices else ChatChoice()

    @property
    def content(self) -> str:
        """Its text."""
        return self.first.content

    @property
    def reasoning(self) -> str:
        """What the model thought first."""
        return self.first.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The functions it wants called."""
        return self.first.tool_calls

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: "stop", "length" or "tool_calls"."""
        return self.first.finish_reason

    def as_message(self) -> Message:
        """The reply as a message, to go on with."""
        return self.first.as_message()


class ToolCallDelta(Result, frozen=True):
    """More of the tool call with this index; `id` and `name` come with its first piece."""

    index: int
    id: str
    name: str
    arguments: str


class ChatDelta(Result, frozen=True):
    """What is new of one choice; a delta without text brings a tool call, scores, the end or progress of the prompt."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    scores: tuple[TokenScore, ...] = ()
    progress: PromptProgress | None = None


class _ChunkChoice(Result, frozen=True):
    index: int = 0
    delta: _Said = _Said()
    finish_reason: str | None = None
    logprobs: _Scores | None = None


class _Chunk(Result, frozen=True):
    id: str = ""
    model: str = ""
    created: int = 0
    choices: tuple[_ChunkChoice, ...] = ()
    prompt_progress: PromptProgress | None = None
    usage: Usage | None = None
    system_fingerprint: str | None = None
    error: dict[str, Any] | None = None


class _Growing:
    """One choice of a stream."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, list[ToolCallDelta]] = {}
        self.scores: list[TokenScore] = []
        self.finish_reason: str | None = None

    def add(self, delta: ChatDelta) -> None:
        self.content.append(delta.content)
        self.reasoning.append(delta.reasoning)
        self.scores += delta.scores
        self.finish_reason = delta.finish_reason or self.finish_reason
        for call in delta.tool_calls:
            self.calls.setdefault(call.index, []).append(call)

    def choice(self, index: int) -> ChatChoice:
        calls = [
            _Call(
                id="".join(part.id for part in parts),
                index=number,
                function=_Function(
                    name="".join(part.name for part in parts), arguments="".join(part.arguments for part in parts)
                ),
            )
            for number, parts in sorted(self.calls.items())
        ]
        said = _Said(
            content="".join(self.content), reasoning_content="".join(self.reasoning), tool_calls=tuple(calls) or None
        )
        scores = _Scores(content=tuple(self.scores)) if self.scores else None
        return ChatChoice(index=index, message=said, finish_reason=self.finish_reason, logprobs=scores)


class ChatReader:
    """Reads the stream of a chat; see `StreamReader`."""

    def __init__(self) -> None:
        self.is_complete = False
        self._last = _Chunk()
        self._usage: Usage | None = None
        self._choices: dict[int, _Growing] = {}

    def read(self, text: str) -> list[ChatDelta]:
        """The deltas of one chunk. Raises GlmError, ProtocolError."""
        if text == "[DONE]":
            self.is_complete = True
            return []
        chunk = decoded(text, _Chunk, "chunk of a chat")
        if chunk.error is not None:
            raise reported(chunk.error)
        self._last = chunk
        self._usage = chunk.usage or self._usage
        deltas = [_delta(choice, chunk.prompt_progress) for choice in chunk.choices]
        for delta in deltas:
            self._choices.setdefault(delta.index, _Growing()).add(delta)
        return [delta for delta in deltas if delta != ChatDelta(delta.index)]

    def whole(self) -> ChatReply:
        """The reply so far."""
        return ChatReply(
            id=self._last.id,
            model=self._last.model,
            created=self._last.created,
            system_fingerprint=self._last.system_fingerprint,
            choices=tuple(growing.choice(index) for index, growing in sorted(self._choices.items())),
            usage=self._usage,
        )


def _delta(choice: _ChunkChoice, progress: PromptProgress | None) -> ChatDelta:
    said = choice.delta
    calls = tuple(
        ToolCallDelta(call.index, call.id or "", call.function.name or "", call.function.arguments or "")
        for call in said.tool_calls or ()
    )
    scores = (choice.logprobs and choice.logprobs.content) or ()
    reasoning = said.reasoning_content or said.reasoning or ""
    return ChatDelta(choice.index, said.content or "", reasoning, calls, choice.finish_reason, scores, progress)
