"""Builders for the parser's tests: a reply as text with tags in, what a client would have put together out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from glm_crush.chat.reply_markers import ReplyMarkers, StartState
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.reply_part import ReplyPart, merge_parts
from glm_crush.chat.tool_schema import ToolSchema, tool_schemas
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from tests.chat.glm_tokens import glm_tokenizer

TOKENIZER = glm_tokenizer()
MARKERS = ReplyMarkers.of(TOKENIZER.added_ids)


def tool(name: str, required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    """A function description; keyword arguments are the schemas of its arguments."""
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


STRING = {"type": "string"}
WEATHER = tool("get_weather", city=STRING, days={"type": "integer"})
NOW = tool("now")


@dataclass
class Parsed:
    """A whole reply, put together as clients do."""

    reasoning: str = ""
    content: str = ""
    calls: list[list[str]] = field(default_factory=list)  # name, arguments

    @property
    def arguments(self) -> list[Any]:
        return [json.loads(arguments) for _, arguments in self.calls]


def parser(
    tools: Iterable[Any] = (), start: StartState = "answer", *, markers: ReplyMarkers = MARKERS, **options: Any
) -> ReplyParser:
    schemas: dict[str, ToolSchema] = tool_schemas(list(tools))
    return ReplyParser(
        markers,
        lambda: IncrementalDetokenizer(TOKENIZER, skip_special_tokens=True),
        start=start,
        tools=schemas,
        **options,
    )


def deltas(text: str, cuts: Sequence[int] = ()) -> list[tuple[list[int], str]]:
    """A reply's tokens and texts as the engine would send them, cut after so many tokens."""
    ids = TOKENIZER.encode(text)
    detokenizer = IncrementalDetokenizer(TOKENIZER, skip_special_tokens=True)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(ids)}), len(ids)]
    parts = [ids[start:end] for start, end in itertools.pairwise(edges)]
    return [(part, detokenizer.add_all(part)) for part in parts]


def parts_of(
    text: str,
    tools: Iterable[Any] = (),
    start: StartState = "answer",
    *,
    cuts: Sequence[int] = (),
    finish: Any = "stop",
    stop_reason: str | None = None,
    **options: Any,
) -> list[ReplyPart]:
    reply = parser(tools, start, **options)
    parts = [part for ids, piece in deltas(text, cuts) for part in reply.push(ids, piece)]
    return merge_parts([*parts, *reply.push([], "", finish, stop_reason)])


def parse(text: str, *args: Any, **options: Any) -> Parsed:
    return put_together(parts_of(text, *args, **options))


def put_together(parts: Iterable[ReplyPart]) -> Parsed:
    parsed = Parsed()
    for part in parts:
        if part.kind == "reasoning":
            parsed.reasoning += part.text
        elif part.kind == "content":
            parsed.content += part.text
        elif part.kind == "tool_name":
            assert part.index == len(parsed.calls)
            parsed.calls.append([part.text, ""])
        else:
            parsed.calls[part.index][1] += part.text
    return parsed
