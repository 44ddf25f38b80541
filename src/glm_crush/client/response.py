"""A stored response, and the events that tell how it grows.

Above: `responses`. Below: `result`. Items are JSON objects in OpenAI's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from glm_crush.client.chat_reply import ToolCall
from glm_crush.client.refusals import decoded, reported
from glm_crush.client.result import ContextReport, Result
from glm_crush.errors import ProtocolError

__all__ = ["Item", "Response", "ResponseEvent", "ResponseReader", "ResponseUsage"]

Item = dict[str, Any]

_WORKING = ("queued", "in_progress")
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class _InputDetails(Result, frozen=True):
    cached_tokens: int = 0


class _OutputDetails(Result, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(Result, frozen=True):
    """Token counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: _InputDetails = _InputDetails()
    output_tokens_details: _OutputDetails = _OutputDetails()
    context: ContextReport | None = None


class Response(Result, frozen=True):
    """One response; `text`, `reasoning` and `tool_calls` are what its output items hold.

    Attributes:
        status: "queued", "in_progress", "completed", "incomplete", "failed" or "cancelled".
        incomplete_details, error: why it is not whole.
    """

    id: str
    status: str = "completed"
    model: str = ""
    created_at: float = 0
    completed_at: float | None = None
    background: bool = False
    output: tuple[Item, ...] = ()
    usage: ResponseUsage | None = None
    error: Mapping[str, Any] | None = None
    incomplete_details: Mapping[str, Any] | None = None
    previous_response_id: str | None = None
    instructions: str | None = None
    metadata: Mapping[str, str] = {}

    @property
    def is_working(self) -> bool:
        """Whether it has not ended."""
        return self.status in _WORKING

    @property
    def text(self) -> str:
        """What the model answered."""
        return "".join(
            str(part.get("text", ""))
            for item in self.output
            if item.get("type") == "message"
            for part in item.get("content", ())
            if part.get("type") == "output_text"
        )

    @property
    def reasoning(self) -> str:
        """What it thought first, or the summary of it."""
        items = [item for item in self.output if item.get("type") == "reasoning"]
        parts = [part for item in items for part in (item.get("content") or item.get("summary") or ())]
        return "".join(str(part.get("text", "")) for part in parts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The functions it wants called."""
        return tuple(
            ToolCall(str(item.get("call_id")), str(item.get("name")), str(item.get("arguments")))
            for item in self.output
            if item.get("type") == "function_call"
        )


class ResponseEvent(Result, frozen=True):
    """One change; `type` says which of the other fields there are."""

    type: str
    sequence_number: int = 0
    delta: str = ""
    response: Response | None = None
    item: Item | None = None
    item_id: str | None = None
    output_index: int | None = None

    @property
    def text(self) -> str:
        """What is new of the answer, if that is what changed."""
        return self.delta if self.type == "response.output_text.delta" else ""


class ResponseReader:
    """Reads the stream of a response; see `StreamReader`."""

    def __init__(self) -> None:
        self.is_complete = False
        self._response: Response | None = None

    def read(self, text: str) -> list[ResponseEvent]:
        """The event in one piece. Raises GlmError, ProtocolError."""
        event = decoded(text, ResponseEvent, "event of a response")
        if event.type == "error":
            raise reported(msgspec.json.decode(text))
        self._response = event.response or self._response
        self.is_complete = event.type in _LAST_EVENTS
        return [event]

    def whole(self) -> Response:
        """The response as the last event that held it had it. Raises ProtocolError when none has come."""
        if self._response is None:
            raise ProtocolError("nothing of the response has come yet")
        return self._response
