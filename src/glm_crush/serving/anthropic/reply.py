"""Replies in Anthropic's shape: as one message, or as the events of a stream that add up to it.

Above: the routes. Below: the neutral turn.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from glm_crush.serving.anthropic.signature import signature_of
from glm_crush.serving.chat_turn import ChatTurn, TurnDelta
from glm_crush.serving.reply_blocks import BlockEvent, ReplyBlocks
from glm_crush.serving.turn_result import TurnEnd, TurnReply
from glm_crush.types import Usage

__all__ = ["PING", "ReplyStyle", "encode_event", "message", "message_events", "refusal", "refusal_events"]


def encode_event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event; its name is the body's type."""
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), to_json(body))


PING = encode_event({"type": "ping"})


@dataclass(frozen=True, kw_only=True)
class ReplyStyle:
    """How a reply is shown.

    Attributes:
        omit_thinking: thinking blocks come without their text. limit_is_context: the reply may fill the context, which
            is less than the request's max_tokens.
    """

    model_name: str
    omit_thinking: bool = False
    limit_is_context: bool = False
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex[:24]}")

    def head(self, content: list[dict[str, Any]], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The message object, not yet ended."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model_name,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def ending(self, reason: TurnEnd, stop: str | int | None) -> dict[str, Any]:
        """`stop_reason` and `stop_sequence`."""
        if reason != "length" and isinstance(stop, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        limit = "model_context_window_exceeded" if self.limit_is_context else "max_tokens"
        reasons = {"stop": "end_turn", "tool_calls": "tool_use", "length": limit, "content_filter": "refusal"}
        return {"stop_reason": reasons[reason], "stop_sequence": None}


async def message(turn: ChatTurn, style: ReplyStyle) -> dict[str, Any]:
    """The whole reply."""
    result = await turn.result()
    reply = result.replies[0]
    body = style.head(_content(reply, style), _usage(result.usage, result.num_reasoning_tokens))
    return body | style.ending(reply.finish_reason, reply.stop_reason)


async def message_events(turn: ChatTurn, style: ReplyStyle) -> AsyncGenerator[bytes, None]:
    """The events of a stream; closing the generator aborts the turn."""
    blocks = ReplyBlocks()
    last: TurnDelta | None = None
    deltas = turn.deltas()
    try:
        async for delta in deltas:
            if last is None:
                start = style.head([], _usage(Usage(len(turn.prompt_token_ids), 0), 0))
                yield encode_event({"type": "message_start", "message": start}) + PING
            events = b"".join(encode_event(body) for e in blocks.push(delta.parts) for body in _block_bodies(e, style))
            if events:
                yield events
            last = delta
        assert last is not None  # the last delta of a reply says why it ends
        assert last.finish_reason is not None
        end = [body for event in blocks.finish() for body in _block_bodies(event, style)]
        ending = style.ending(last.finish_reason, last.stop_reason)
        end.append({"type": "message_delta", "delta": ending, "usage": _usage(turn.usage, turn.num_reasoning_tokens)})
        end.append({"type": "message_stop"})
        yield b"".join(encode_event(body) for body in end)
    finally:
        await deltas.aclose()


def refusal(style: ReplyStyle) -> dict[str, Any]:
    """The answer to a request that the guard did not let through: a message without content."""
    return style.head([], _usage(Usage(0, 0), 0)) | style.ending("content_filter", None)


async def refusal_events(style: ReplyStyle) -> AsyncGenerator[bytes, None]:
    """The same as a stream."""
    usage = _usage(Usage(0, 0), 0)
    yield b"".join(
        encode_event(body)
        for body in (
            {"type": "message_start", "message": style.head([], usage)},
            {"type": "message_delta", "delta": style.ending("content_filter", None), "usage": usage},
            {"type": "message_stop"},
        )
    )


def _block_bodies(event: BlockEvent, style: ReplyStyle) -> list[dict[str, Any]]:
    if event.event == "start":
        starts: dict[str, dict[str, Any]] = {
            "content": {"type": "text", "text": "", "citations": None},
            "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
            "tool_call": _tool_use(event.text, {}),
        }
        return [{"type": "content_block_start", "index": event.index, "content_block": starts[event.kind]}]
    stop = {"type": "content_block_stop", "index": event.index}
    if event.kind == "reasoning" and event.event == "stop":
        signature = signature_of(event.text, omitted=style.omit_thinking)
        return [_delta(event.index, {"type": "signature_delta", "signature": signature}), stop]
    if event.event == "stop":
        return [stop]
    if event.kind == "reasoning":
        if style.omit_thinking:
            return []
        return [_delta(event.index, {"type": "thinking_delta", "thinking": event.text})]
    if event.kind == "content":
        return [_delta(event.index, {"type": "text_delta", "text": event.text})]
    return [_delta(event.index, {"type": "input_json_delta", "partial_json": event.text})]


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _content(reply: TurnReply, style: ReplyStyle) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if reply.reasoning:
        signature = signature_of(reply.reasoning, omitted=style.omit_thinking)
        thinking = "" if style.omit_thinking else reply.reasoning
        content.append({"type": "thinking", "thinking": thinking, "signature": signature})
    if reply.content:
        content.append({"type": "text", "text": reply.content, "citations": None})
    content += [_tool_use(call.name, _input(call.arguments)) for call in reply.tool_calls]
    return content


def _tool_use(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": name, "input": arguments}


def _input(arguments: str) -> dict[str, Any]:
    """The arguments as far as they came: a reply that was cut off ends inside them."""
    try:
        value = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage, num_reasoning_tokens: int) -> dict[str, Any]:
    """Anthropic's `input_tokens` leaves out what was found in the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": num_reasoning_tokens},
        "service_tier": "standard",
    }
