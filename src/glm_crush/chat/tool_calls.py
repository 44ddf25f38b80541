"""One tool call at a time, from the pieces between `<tool_call>` and `</tool_call>` to name and JSON arguments.

Above: the reply parser. Below: the declared tools. GLM writes keys and values in tags, string values as they are and
everything else as JSON; other models write one JSON object. Both give the name once and whole, and arguments that add
up to a JSON object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NoReturn, Protocol

from glm_crush.chat.reply_markers import Marker
from glm_crush.chat.reply_part import ReplyPart
from glm_crush.chat.tool_schema import ToolSchema

__all__ = ["GlmToolCall", "JsonToolCall", "ToolCall"]

_NAME_IN_JSON = re.compile(
    r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)
_NAME_ALONE = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"')
_FIRST_KEY = '{"name"'


class ToolCall(Protocol):
    """A call under way.

    Attributes:
        named: its name has been given out, so it counts as a call. source: the text so far, while it is not one.
        is_hopeless: it will not become a call, whatever comes. tagged: it began with `<tool_call>`.
    """

    named: bool
    source: str
    is_hopeless: bool
    tagged: bool

    @property
    def in_value(self) -> bool:
        """Inside an argument, where `<tool_call>` is text."""

    def push(self, marker: Marker | None, text: str) -> Iterator[ReplyPart]:
        """What a piece of the call adds."""

    def close(self, *, cut: bool) -> Iterator[ReplyPart]:
        """What its end adds; `cut` says that the reply was cut off here and the call is not whole."""


class GlmToolCall:
    """`name<arg_key>key</arg_key><arg_value>value</arg_value>...`, line feeds between the tags or not."""

    def __init__(self, tools: Mapping[str, ToolSchema], index: int) -> None:
        self.named = False
        self.source = ""
        self.is_hopeless = False
        self.tagged = True
        self._tools = tools
        self._tool: ToolSchema | None = None
        self._index = index
        self._place: Marker | None = None  # the tag whose inside this is; None = between tags, or in the name
        self._text = ""  # of the name, key or non-string value so far
        self._num_arguments = 0
        self._in_string = False

    def push(self, marker: Marker | None, text: str) -> Iterator[ReplyPart]:
        """See `ToolCall`. A call to an undeclared function gives nothing: its `source` is text."""
        if self.named:
            yield from self._argument(marker, text)
            return
        self.source += text
        if marker is None:
            self._text += text
        name = self._text.lstrip()
        if self.is_hopeless or (marker is None and "\n" not in name):
            return
        self._tool = self._tools.get(name.split("\n", 1)[0].strip())
        self.is_hopeless = self._tool is None
        if self._tool is not None:
            self.named = True
            self._text = ""
            yield ReplyPart("tool_name", self._tool.name, self._index)
            yield from self._argument(marker, "")

    def close(self, *, cut: bool) -> Iterator[ReplyPart]:
        """See `ToolCall`. A name that was cut off may be the beginning of another: it is none.

        A model that ends its reply without the closing tags has said all it wants: they are added.
        """
        if not cut:
            yield from self.push("/tool_call", "")
        if not self.named or cut:
            return
        if self.in_value:
            yield from self._end_of_value()
        yield self._arguments("}" if self._num_arguments else "{}")

    @property
    def in_value(self) -> bool:
        """See `ToolCall`."""
        return self._place == "arg_value"

    def _argument(self, marker: Marker | None, text: str) -> Iterator[ReplyPart]:
        if self.in_value:
            if marker == "/arg_value":
                yield from self._end_of_value()
                self._place = None
            elif self._in_string:
                yield self._arguments(json.dumps(text, ensure_ascii=False)[1:-1])
            else:
                self._text += text
        elif marker == "arg_key":
            self._place, self._text = "arg_key", ""
        elif marker == "arg_value" and self._text.strip():
            yield from self._start_of_value(self._text.strip())
        elif self._place == "arg_key" and marker is None:
            self._text += text
        elif marker == "/arg_key":
            self._place = None

    def _start_of_value(self, key: str) -> Iterator[ReplyPart]:
        assert self._tool is not None
        before = ", " if self._num_arguments else "{"
        self._num_arguments += 1
        self._in_string = self._tool.is_string(key)
        self._place, self._text = "arg_value", ""
        yield self._arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: " + ('"' if self._in_string else ""))

    def _end_of_value(self) -> Iterator[ReplyPart]:
        yield self._arguments('"' if self._in_string else _json_or_string(self._text))
        self._text, self._in_string = "", False

    def _arguments(self, text: str) -> ReplyPart:
        return ReplyPart("tool_arguments", text, self._index)


class JsonToolCall:
    """`{"name": "f", "arguments": {...}}`; the arguments are given out as they come.

    Args:
        tools: what may be called. index: of the call. tagged: it began with `<tool_call>`.
        held: a grammar leaves no object but a call, so that a whole name is one of a call.
    """

    def __init__(self, tools: Mapping[str, ToolSchema], index: int, *, tagged: bool = True, held: bool = False) -> None:
        self.named = False
        self.source = ""
        self.is_hopeless = False
        self.tagged = tagged
        self._held = held
        self._tools = tools
        self._index = index
        self._object = _ObjectEnd()

    @property
    def in_value(self) -> bool:
        """See `ToolCall`."""
        return False

    def push(self, marker: Marker | None, text: str) -> Iterator[ReplyPart]:  # noqa: ARG002 - any tag is text here
        """See `ToolCall`. An object of another form gives nothing: its `source` is text."""
        if self.named:
            yield ReplyPart("tool_arguments", self._object.take(text), self._index)
            return
        self.source += text
        start = _NAME_IN_JSON.match(self.source)
        if start is not None and start["name"] in self._tools:
            self.named = True
            yield ReplyPart("tool_name", start["name"], self._index)
            yield ReplyPart("tool_arguments", self._object.take(self.source[start.end() :]), self._index)
        elif not self.tagged:
            # Without a tag most answers are no calls: they are not kept back longer than their beginning is unclear.
            beginning = "".join(self.source.split())[: len(_FIRST_KEY)]
            self.is_hopeless = start is not None or not _FIRST_KEY.startswith(beginning)

    def close(self, *, cut: bool) -> Iterator[ReplyPart]:
        """See `ToolCall`. A whole object whose keys come in another order is a call too."""
        if self.named:
            return
        if cut:
            yield from self._name_alone()
            return
        try:
            call = json.loads(self.source)
        except (ValueError, RecursionError):
            return
        arguments = call.get("arguments", call.get("parameters", {})) if isinstance(call, dict) else None
        if isinstance(arguments, dict) and call.get("name") in self._tools:
            self.named = True
            yield ReplyPart("tool_name", call["name"], self._index)
            yield ReplyPart("tool_arguments", json.dumps(arguments, ensure_ascii=False), self._index)

    def _name_alone(self) -> Iterator[ReplyPart]:
        """The name of a call that was cut off before its arguments began."""
        start = _NAME_ALONE.match(self.source) if self._held else None
        if start is not None and start["name"] in self._tools:
            self.named = True
            yield ReplyPart("tool_name", start["name"], self._index)


class _ObjectEnd:
    """Passes JSON text through up to the brace that closes its first object."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self._done = False

    def take(self, text: str) -> str:
        """The part of `text` that belongs to the object."""
        if self._done:
            return ""
        for position, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._done = True
                    return text[: position + 1]
        return text


def _json_or_string(text: str) -> str:
    """A value that is not declared as a string: the JSON it is, else its text as a JSON string."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text.strip()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
