"""Chat replies in OpenAI's shape: text, reasoning and tool calls, as chunks or as one message.

Above: the route of chat completions. Below: the reply parser, one for each choice. Reasoning goes out under both names
that clients know, `reasoning_content` (DeepSeek, GLM) and `reasoning` (vLLM, OpenRouter).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.reply_part import ReplyPart
from glm_crush.engine.output import RequestDelta
from glm_crush.serving.openai.chunks import ChunkWriter
from glm_crush.serving.openai.logprobs import chat_logprobs
from glm_crush.serving.served_model import TextCodec
from glm_crush.types import CompletionOutput

__all__ = ["ChatReplies"]


class ChatReplies:
    """The choices of one reply.

    Args:
        codec: spells the tokens of logprobs.
        make_parser: a fresh parser for one choice; None = a reply is its text and nothing else.
    """

    def __init__(self, codec: TextCodec, make_parser: Callable[[], ReplyParser] | None) -> None:
        self._codec = codec
        self._make_parser = make_parser
        self._parsers: dict[int, ReplyParser] = {}

    def num_reasoning_tokens(self) -> int:
        """Of all choices so far."""
        return sum(parser.num_reasoning_tokens for parser in self._parsers.values())

    def chunks(self, writer: ChunkWriter, choice: int, delta: RequestDelta, first: bool) -> list[bytes]:
        """The role first, then what is new, then the reason to finish: each in a chunk of its own, as OpenAI does."""
        chunks = [writer.delta(choice, {"role": "assistant", "content": ""})] if first else []
        logprobs = chat_logprobs(delta.logprobs, self._codec)
        reason: str | None = delta.finish_reason
        if self._make_parser is None:
            deltas = [{"content": delta.text}] if delta.text else []
        else:
            parser = self._parser(choice)
            parts = parser.push(delta.token_ids, delta.text, delta.finish_reason, delta.stop_reason)
            deltas = [_delta(part) for part in parts]
            reason = _reason(reason, parser)
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        for position, content in enumerate(deltas):
            chunks.append(writer.delta(choice, content, logprobs=None if position else logprobs))
        if reason:
            chunks.append(writer.delta(choice, {}, reason))
        return chunks

    def choice(self, reply: CompletionOutput) -> dict[str, Any]:
        """A whole choice."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        reason: str | None = reply.finish_reason
        if self._make_parser is not None:
            parser = self._parser(reply.index)
            parts = parser.push(reply.token_ids, reply.text, reply.finish_reason, reply.stop_reason)
            message |= _message(parts)
            reason = _reason(reason, parser)
        return {
            "index": reply.index,
            "message": message,
            "logprobs": chat_logprobs(reply.logprobs, self._codec),
            "finish_reason": reason,
        }

    def _parser(self, choice: int) -> ReplyParser:
        if choice not in self._parsers:
            assert self._make_parser is not None
            self._parsers[choice] = self._make_parser()
        return self._parsers[choice]


def _reason(reason: str | None, parser: ReplyParser) -> str | None:
    return "tool_calls" if reason == "stop" and parser.num_calls else reason


def _delta(part: ReplyPart) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"reasoning_content": part.text, "reasoning": part.text}
    if part.kind == "content":
        return {"content": part.text}
    if part.kind == "tool_name":
        return {"tool_calls": [{"index": part.index, **_call(part.text)}]}
    return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}


def _message(parts: Iterable[ReplyPart]) -> dict[str, Any]:
    reasoning, content = "", ""
    calls: list[dict[str, Any]] = []
    for part in parts:
        if part.kind == "reasoning":
            reasoning += part.text
        elif part.kind == "content":
            content += part.text
        elif part.kind == "tool_name":
            calls.append(_call(part.text))
        else:
            calls[part.index]["function"]["arguments"] += part.text
    message: dict[str, Any] = {"content": content or None if calls else content}
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    return {**message, "tool_calls": calls} if calls else message


def _call(name: str) -> dict[str, Any]:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": ""}}
