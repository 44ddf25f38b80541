"""Replies in Ollama's shape: one object, or lines that add up to it; the last says why it ends and what it took.

Above: chat and generate. Below: the neutral turn.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic_core import from_json, to_json
from starlette.responses import Response

from glm_crush.serving.chat_turn import ChatTurn, TurnDelta
from glm_crush.serving.errors import ErrorReply, error_reply
from glm_crush.serving.event_stream import EventStream
from glm_crush.serving.openai.logprobs import chat_logprobs
from glm_crush.serving.reply_blocks import ReplyBlocks
from glm_crush.serving.turn_result import ToolCall
from glm_crush.types import TokenLogprobs, Usage

__all__ = ["Reply", "encode_line", "line_stream", "now", "ollama_error"]


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def ollama_error(reply: ErrorReply, _: str) -> dict[str, object]:
    """`{"error": message}`."""
    return {"error": reply.message}


def encode_line(body: Mapping[str, Any]) -> bytes:
    """One line of a stream."""
    return to_json(body) + b"\n"


def line_stream(lines: AsyncGenerator[bytes, None]) -> Response:
    """A stream of lines; one that fails after it has begun ends in a line with the error.

    There are no pings: Ollama's clients take every line for an object.
    """
    return EventStream(
        lines,
        encode_error=lambda error: encode_line({"error": error_reply(error).message}),
        ping_interval_seconds=1.0,
        ping=None,
        media_type="application/x-ndjson",
    )


@dataclass(kw_only=True)
class Reply:
    """One reply on its way to the client.

    Attributes:
        kind: "chat" has messages, "generate" has text. model_name: as the client called it.
        started: when the request came. queued: when it was ready for the engine.
    """

    kind: Literal["chat", "generate"]
    model_name: str
    turn: ChatTurn
    started: float
    queued: float = field(default_factory=time.perf_counter)
    gives_context: bool = False

    async def whole(self) -> dict[str, Any]:
        """The reply as one object."""
        result = await self.turn.result()
        reply = result.replies[0]
        output = result.output
        body = self._piece(reply.content, reply.reasoning, reply.tool_calls, reply.logprobs)
        ids = output.outputs[0].token_ids
        return body | self._ending(
            reply.finish_reason, result.usage, output.time_to_first_token_seconds, output.elapsed_seconds, ids
        )

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The reply as it comes; closing the generator aborts it."""
        blocks = ReplyBlocks()
        names: dict[int, str] = {}
        ids: list[int] = []
        last: TurnDelta | None = None
        deltas = self.turn.deltas()
        try:
            async for delta in deltas:
                texts = {"content": "", "reasoning": ""}
                calls: list[ToolCall] = []
                events = list(blocks.push(delta.parts))
                if delta.finish_reason is not None:
                    events += blocks.finish()
                for event in events:
                    if event.kind != "tool_call":
                        texts[event.kind] += event.text if event.event == "delta" else ""
                    elif event.event == "start":
                        names[event.index] = event.text
                    elif event.event == "stop":  # a call is sent when it is whole
                        calls.append(ToolCall(names[event.index], event.text))
                if texts["content"] or texts["reasoning"] or calls or delta.logprobs:
                    yield encode_line(self._piece(texts["content"], texts["reasoning"], calls, delta.logprobs))
                ids += delta.token_ids
                last = delta
            assert last is not None  # the last delta of a reply says why it ends
            assert last.finish_reason is not None
            stats = last.stats
            ttft = None if stats is None else stats.time_to_first_token_seconds
            elapsed = None if stats is None else stats.elapsed_seconds
            ending = self._ending(last.finish_reason, self.turn.usage, ttft, elapsed, ids)
            yield encode_line(self._piece("", "", (), None) | ending)
        finally:
            await deltas.aclose()

    def _piece(
        self,
        content: str,
        thinking: str,
        calls: Sequence[ToolCall],
        logprobs: Sequence[TokenLogprobs] | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model_name, "created_at": now()}
        extra: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if self.kind == "chat":
            if calls:
                extra["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
            body["message"] = {"role": "assistant", "content": content, **extra}
        else:
            body |= {"response": content, **extra}
        body["done"] = False
        scored = chat_logprobs(logprobs, self.turn.model.codec)
        return body if scored is None else body | {"logprobs": scored["content"]}

    def _ending(
        self,
        reason: str,
        usage: Usage,
        ttft_seconds: float | None,
        elapsed_seconds: float | None,
        token_ids: Sequence[int],
    ) -> dict[str, Any]:
        """The last fields; durations in nanoseconds."""
        prompt_seconds = ttft_seconds or 0.0
        body: dict[str, Any] = {
            "done": True,
            "done_reason": reason if reason in ("length", "content_filter") else "stop",
            "total_duration": _ns(time.perf_counter() - self.started),
            "load_duration": _ns(self.queued - self.started),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns((elapsed_seconds or 0.0) - prompt_seconds),
        }
        if self.gives_context:
            body["context"] = [*self.turn.prompt_token_ids, *token_ids]
        return body


def _call(call: ToolCall, number: int) -> dict[str, Any]:
    try:
        arguments = from_json(call.arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        arguments = {}
    function = {"index": number, "name": call.name, "arguments": arguments if isinstance(arguments, dict) else {}}
    return {"id": f"call_{uuid.uuid4().hex[:8]}", "function": function}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
