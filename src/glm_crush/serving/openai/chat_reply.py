"""Chat replies in OpenAI's shape: text, reasoning and tool calls, as chunks or as one message.

Above: the route of chat completions. Below: the neutral turn. Reasoning goes out under both names that clients know,
`reasoning_content` (DeepSeek, GLM) and `reasoning` (vLLM, OpenRouter).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

from glm_crush.chat.reply_part import ReplyPart
from glm_crush.serving.chat_turn import ChatTurn, TurnDelta
from glm_crush.serving.openai.chunks import DONE, ChunkWriter, ReplyHead, usage_object
from glm_crush.serving.openai.logprobs import chat_logprobs, prompt_logprobs
from glm_crush.serving.served_model import TextCodec
from glm_crush.serving.turn_result import TurnReply

__all__ = ["chat_completion", "chat_events"]


async def chat_events(turn: ChatTurn, head: ReplyHead, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """The events of a streamed turn; closing the generator aborts it."""
    writer = ChunkWriter(head, "chat.completion.chunk", include_usage=include_usage)
    begun: set[int] = set()
    deltas = turn.deltas()
    try:
        async for delta in deltas:
            chunks = _chunks(writer, delta, turn.model.codec, first=delta.index not in begun)
            begun.add(delta.index)
            if chunks:
                yield b"".join(chunks)
        if include_usage:
            yield writer.usage(turn.usage, turn.num_reasoning_tokens, turn.more_usage)
        yield DONE
    finally:
        await deltas.aclose()


async def chat_completion(turn: ChatTurn, head: ReplyHead) -> dict[str, Any]:
    """The whole turn as one object."""
    result = await turn.result()
    choices = [_choice(reply, turn.model.codec) for reply in result.replies]
    usage = usage_object(result.usage, result.num_reasoning_tokens) | turn.more_usage
    reply = {**head.fields("chat.completion"), "choices": choices, "usage": usage}
    if result.output.prompt_logprobs is not None:
        reply["prompt_logprobs"] = prompt_logprobs(result.output.prompt_logprobs, turn.model.codec)
    return reply


def _chunks(writer: ChunkWriter, delta: TurnDelta, codec: TextCodec, *, first: bool) -> list[bytes]:
    """The role first, then what is new, then the reason to finish: each in a chunk of its own, as OpenAI does."""
    chunks = [writer.delta(delta.index, {"role": "assistant", "content": ""})] if first else []
    if delta.progress is not None:
        chunks.append(writer.progress(delta.index, "delta", delta.progress))
    logprobs = chat_logprobs(delta.logprobs, codec)
    contents = [_delta(part) for part in delta.parts]
    if logprobs and not contents:
        contents = [{"content": ""}]
    for position, content in enumerate(contents):
        chunks.append(writer.delta(delta.index, content, logprobs=None if position else logprobs))
    if delta.finish_reason:
        chunks.append(writer.delta(delta.index, {}, delta.finish_reason))
    return chunks


def _delta(part: ReplyPart) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"reasoning_content": part.text, "reasoning": part.text}
    if part.kind == "content":
        return {"content": part.text}
    if part.kind == "tool_name":
        return {"tool_calls": [{"index": part.index, **_call(part.text, "")}]}
    return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}


def _choice(reply: TurnReply, codec: TextCodec) -> dict[str, Any]:
    content = reply.content or None if reply.tool_calls else reply.content
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reply.reasoning:
        message |= {"reasoning_content": reply.reasoning, "reasoning": reply.reasoning}
    if reply.tool_calls:
        message["tool_calls"] = [_call(call.name, call.arguments) for call in reply.tool_calls]
    return {
        "index": reply.index,
        "message": message,
        "logprobs": chat_logprobs(reply.logprobs, codec),
        "finish_reason": reply.finish_reason,
    }


def _call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
