"""A response as it grows: the object that clients retrieve, and the events that tell of every change to it.

Above: `run.py`. Below: the deltas of a turn. The object is always what the events so far add up to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic_core import to_json

from glm_crush.chat.reply_part import PartKind, ReplyPart
from glm_crush.serving.chat_turn import TurnDelta
from glm_crush.serving.openai.logprobs import chat_logprobs
from glm_crush.serving.openai.responses.items import Item, new_id
from glm_crush.serving.served_model import TextCodec
from glm_crush.types import TokenLogprobs, Usage

__all__ = ["Event", "ResponseWriter", "encode_event"]

Event = dict[str, Any]
ItemKind = Literal["reasoning", "content", "tool_call"]
_KINDS: Mapping[PartKind, ItemKind] = {
    "reasoning": "reasoning",
    "content": "content",
    "tool_name": "tool_call",
    "tool_arguments": "tool_call",
}
Status = Literal["completed", "incomplete", "failed", "cancelled"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def encode_event(event: Event) -> bytes:
    """The event as a server sends it."""
    kind: str = event["type"]
    return b"event: " + kind.encode() + b"\ndata: " + to_json(event) + b"\n\n"


class ResponseWriter:
    """Writes one response.

    Args:
        body: the response object, changed in place.
        codec: spells the tokens of logprobs.
        summary: the reasoning is shown as its summary.
    """

    def __init__(self, body: dict[str, Any], codec: TextCodec, *, summary: bool) -> None:
        self.body = body
        self._codec = codec
        self._summary = summary
        self._number = 0
        self._open: ItemKind | None = None
        self._scores: list[TokenLogprobs] = []  # of tokens whose text has not come yet

    def begin(self) -> Iterator[Event]:
        """The response exists; and when it waited, it still does."""
        yield self._response_event("response.created")
        if self.body["status"] == "queued":
            yield self._response_event("response.queued")

    def start(self) -> Iterator[Event]:
        """The model is at work."""
        self.body["status"] = "in_progress"
        yield self._response_event("response.in_progress")

    def push(self, delta: TurnDelta) -> Iterator[Event]:
        """What a step adds."""
        self._scores += delta.logprobs or ()
        for part in delta.parts:
            kind = _KINDS[part.kind]
            if part.kind == "tool_name" or kind != self._open:
                yield from self._end_item("completed")
                yield from self._begin_item(kind, part)
            if part.kind != "tool_name":
                yield from self._grow(kind, part.text)
            self._scores.clear()

    def end_items(self, status: Literal["completed", "incomplete"]) -> Iterator[Event]:
        """The reply has ended; one that says nothing is an empty message."""
        if not self.body["output"] and status == "completed":
            yield from self._begin_item("content", ReplyPart("content", ""))
        yield from self._end_item(status)

    def close(
        self,
        status: Status,
        *,
        completed_at: float,
        usage: Usage | None = None,
        num_reasoning_tokens: int = 0,
        more_usage: Mapping[str, Any] = _NOTHING,
        error: dict[str, str] | None = None,
        is_filtered: bool = False,
    ) -> Event:
        """The last event; the object is what it will stay."""
        if self._open is not None and self.body["output"]:
            self.body["output"][-1]["status"] = "incomplete"
            self._open = None
        self.body["status"] = status
        self.body["error"] = error
        if status == "completed":
            self.body["completed_at"] = int(completed_at)
        if status == "incomplete":
            self.body["incomplete_details"] = {"reason": "content_filter" if is_filtered else "max_output_tokens"}
        if usage is not None:
            self.body["usage"] = {**_usage(usage, num_reasoning_tokens), **more_usage}
        # There is no event for a cancelled response; its end is that of one that was cut off.
        return self._response_event("response.incomplete" if status == "cancelled" else f"response.{status}")

    # --- items ---

    def _begin_item(self, kind: ItemKind, part: ReplyPart) -> Iterator[Event]:
        self._open = kind
        item: Item
        if kind == "content":
            item = {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []}
        elif kind == "reasoning":
            item = {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": []}
        else:
            item = {"id": new_id("fc"), "type": "function_call", "call_id": new_id("call"), "name": part.text}
            item["arguments"] = ""
        item["status"] = "in_progress"
        self.body["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._index, item={**item})
        if kind == "content":
            text: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item["content"].append(text)
            yield self._part_event("response.content_part.added", text)
        elif kind == "reasoning" and self._summary:
            item["summary"].append({"type": "summary_text", "text": ""})
            yield self._summary_event("response.reasoning_summary_part.added", part={**item["summary"][0]})
        elif kind == "reasoning":
            item["content"].append({"type": "reasoning_text", "text": ""})
            yield self._part_event("response.content_part.added", item["content"][0])

    def _grow(self, kind: ItemKind, text: str) -> Iterator[Event]:
        item = self.body["output"][-1]
        if kind == "tool_call":
            item["arguments"] += text
            yield self._item_event("response.function_call_arguments.delta", delta=text)
        elif kind == "reasoning" and self._summary:
            item["summary"][0]["text"] += text
            yield self._summary_event("response.reasoning_summary_text.delta", delta=text)
        elif kind == "reasoning":
            item["content"][0]["text"] += text
            yield self._text_event("response.reasoning_text.delta", delta=text)
        else:
            logprobs = (chat_logprobs(self._scores, self._codec) or {"content": []})["content"]
            item["content"][0]["text"] += text
            item["content"][0]["logprobs"] += logprobs
            yield self._text_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _end_item(self, status: Literal["completed", "incomplete"]) -> Iterator[Event]:
        if self._open is None:
            return
        kind, self._open = self._open, None
        item = self.body["output"][-1]
        if kind == "tool_call":
            arguments, name = item["arguments"], item["name"]
            yield self._item_event("response.function_call_arguments.done", arguments=arguments, name=name)
        elif kind == "reasoning" and self._summary:
            part = item["summary"][0]
            yield self._summary_event("response.reasoning_summary_text.done", text=part["text"])
            yield self._summary_event("response.reasoning_summary_part.done", part={**part})
        elif kind == "reasoning":
            part = item["content"][0]
            yield self._text_event("response.reasoning_text.done", text=part["text"])
            yield self._part_event("response.content_part.done", part)
        else:
            part = item["content"][0]
            yield self._text_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            yield self._part_event("response.content_part.done", part)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._index, item={**item})

    # --- events ---

    @property
    def _index(self) -> int:
        return len(self.body["output"]) - 1

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _response_event(self, kind: str) -> Event:
        return self._event(kind, response=self.body)

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self.body["output"][-1]["id"], output_index=self._index, **fields)

    def _text_event(self, kind: str, **fields: Any) -> Event:
        return self._item_event(kind, content_index=0, **fields)

    def _part_event(self, kind: str, part: dict[str, Any]) -> Event:
        return self._text_event(kind, part={**part})

    def _summary_event(self, kind: str, **fields: Any) -> Event:
        return self._item_event(kind, summary_index=0, **fields)


def _usage(usage: Usage, num_reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
