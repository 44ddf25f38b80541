"""A whole turn of a chat: its replies with reasoning, content and tool calls apart.

Above: `chat_turn.py` and the protocol adapters. Below: reply parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from glm_crush.chat.reply_part import ReplyPart
from glm_crush.types import CompletionOutput, RequestOutput, TokenLogprobs, Usage

__all__ = ["ToolCall", "TurnEnd", "TurnReply", "TurnResult", "turn_reply"]

TurnEnd = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why a reply ends; "content_filter": the guard ended it."""


@dataclass(frozen=True)
class ToolCall:
    """A call to a declared tool; `arguments` is JSON text, cut off if the reply was."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class TurnReply:
    """One reply.

    Attributes:
        finish_reason: "tool_calls" when it ended in order and holds calls.
        stop_reason: the stop string or token id that ended it.
    """

    index: int
    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: TurnEnd
    stop_reason: str | int | None
    logprobs: tuple[TokenLogprobs, ...] | None


@dataclass(frozen=True)
class TurnResult:
    """All replies; `usage` is over all of them, `output` what the engine said."""

    replies: tuple[TurnReply, ...]
    usage: Usage
    num_reasoning_tokens: int
    output: RequestOutput


def turn_reply(parts: Iterable[ReplyPart], reply: CompletionOutput, finish_reason: TurnEnd) -> TurnReply:
    """A reply put together from its parts."""
    texts = {"reasoning": "", "content": ""}
    calls: list[ToolCall] = []
    for part in parts:
        if part.kind == "tool_name":
            calls.append(ToolCall(part.text, ""))
        elif part.kind == "tool_arguments":
            calls[part.index] = ToolCall(calls[part.index].name, calls[part.index].arguments + part.text)
        else:
            texts[part.kind] += part.text
    return TurnReply(
        index=reply.index,
        reasoning=texts["reasoning"],
        content=texts["content"],
        tool_calls=tuple(calls),
        finish_reason=finish_reason,
        stop_reason=reply.stop_reason,
        logprobs=reply.logprobs,
    )
