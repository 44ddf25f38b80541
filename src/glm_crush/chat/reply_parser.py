"""From the deltas of one reply to reasoning, content and tool calls, the same whatever the deltas' sizes.

Above: the protocol adapters. Below: marked text, the reasoning section, the tool calls. It knows no protocol. GLM-4.5,
4.6 and 4.7 are parsed, and models whose calls are JSON between `<tool_call>` tags; where no tools were declared,
nothing is taken for a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from glm_crush.chat.marked_text import Detokenizer, MarkedText
from glm_crush.chat.reasoning import ReasoningCounter, ReasoningSection, TrimmedText
from glm_crush.chat.reply_markers import Marker, ReplyMarkers, StartState
from glm_crush.chat.reply_part import ReplyPart, merge_parts
from glm_crush.chat.tool_calls import GlmToolCall, JsonToolCall, ToolCall
from glm_crush.chat.tool_schema import ToolSchema
from glm_crush.types import FinishReason

__all__ = ["ReplyParser"]


class ReplyParser:
    """Parses one reply.

    Args:
        markers: of the model.
        make_detokenizer: as the engine decodes this reply.
        start: where the reply begins, see `ReplyMarkers.start_state`.
        tools: what the request declared and may be called; none = calls are not looked for.
        answer_may_be_call: the answer may be one JSON call without tags: for models that have none.
        calls_are_held: a grammar lets a call that has begun become none but one to a declared tool, so that one which
            was cut off is never text.
    """

    def __init__(
        self,
        markers: ReplyMarkers,
        make_detokenizer: Callable[[], Detokenizer],
        *,
        start: StartState = "open",
        tools: Mapping[str, ToolSchema] | None = None,
        answer_may_be_call: bool = False,
        calls_are_held: bool = False,
    ) -> None:
        self.num_calls = 0
        self._markers = markers
        self._tools = tools or {}
        self._marked = MarkedText(markers, make_detokenizer)
        self._section = ReasoningSection(start, calls_end_it=bool(self._tools))
        self._counter = ReasoningCounter(markers, start, calls_end_it=bool(self._tools))
        self._reasoning, self._content = TrimmedText(), TrimmedText()
        self._call: ToolCall | None = None
        self._answer_may_be_call = answer_may_be_call
        self._calls_are_held = calls_are_held
        self._ends_in_call = False

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens between the reasoning's tags so far."""
        return self._counter.num_tokens

    def push(
        self,
        token_ids: Sequence[int],
        text: str,
        finish_reason: FinishReason | None = None,
        stop_reason: str | int | None = None,
    ) -> list[ReplyPart]:
        """What a delta adds, in order; the arguments are the delta's fields."""
        self._counter.add(token_ids)
        parts: list[ReplyPart] = []
        for marker, piece in self._marked.push(token_ids, text, last=finish_reason is not None):
            parts += self._take(marker, piece)
        if finish_reason is not None:
            parts += self._finish(cut=finish_reason != "stop", by_model=finish_reason == "stop" and stop_reason is None)
        return merge_parts(parts)

    def _take(self, marker: Marker | None, text: str) -> Iterator[ReplyPart]:
        if self._call is not None:
            yield from self._take_in_call(self._call, marker, text)
        elif self._section.switches(marker, answer_has_begun=self._content.has_begun or self.num_calls > 0):
            return
        elif self._section.active:
            yield ReplyPart("reasoning", self._section.add(self._reasoning.push(text)))
        elif self._answer_may_be_call:
            self._answer_may_be_call = False  # only its beginning is
            self._call = self._new_call(tagged=False)
            yield from self._take_in_call(self._call, marker, text)
        elif marker == "tool_call" and self._tools:
            self._call = self._new_call()
        else:
            yield self._add_content(text)

    def _take_in_call(self, call: ToolCall, marker: Marker | None, text: str) -> Iterator[ReplyPart]:
        if marker == "/tool_call":
            yield from self._end_call(call, closing=text, cut=False)
        elif marker == "tool_call" and not call.in_value:
            yield from self._end_call(call, closing="", cut=False)
            self._call = self._new_call()
        else:
            yield from call.push(marker, text)
            if call.is_hopeless:
                yield from self._end_call(call, closing="", cut=True)

    def _new_call(self, *, tagged: bool = True) -> ToolCall:
        if tagged and self._markers.tool_format == "glm":
            return GlmToolCall(self._tools, self.num_calls)
        return JsonToolCall(self._tools, self.num_calls, tagged=tagged, held=self._calls_are_held)

    def _end_call(self, call: ToolCall, *, closing: str, cut: bool) -> Iterator[ReplyPart]:
        """What was no call to a declared function is shown as the text it is, unless it was about to become one."""
        yield from call.close(cut=cut)
        self._call = None
        if call.named:
            self.num_calls += 1
            self._ends_in_call = True
            self._content.flush()
        elif cut and self._calls_are_held and not call.is_hopeless:
            self._ends_in_call = True
        else:
            opening = "<tool_call>" if call.tagged else ""
            yield self._add_content(f"{opening}{call.source}{closing}")

    def _add_content(self, text: str) -> ReplyPart:
        certain = self._content.push(text)
        self._ends_in_call = self._ends_in_call and not certain
        return ReplyPart("content", certain)

    def _finish(self, *, cut: bool, by_model: bool) -> Iterator[ReplyPart]:
        """The end of the reply.

        A model that ends its reply by itself without having closed the reasoning has answered in it, for want of the
        tag: the content then repeats the reasoning, since a client that shows the content alone must show the answer.
        A reply that was cut off by its length or by a stop string in the middle of the reasoning has no content.
        """
        if self._call is not None:
            yield from self._end_call(self._call, closing="", cut=cut)
        if self._section.active:
            if by_model:
                yield ReplyPart("content", self._section.text)
        elif not self._ends_in_call:
            yield ReplyPart("content", self._content.flush())
