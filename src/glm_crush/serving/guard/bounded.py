r"""Regular expressions whose matches have a largest length, so that a stream knows how much of it to hold back.

Above: the rules. Below: nothing. The subset: characters, classes, `.`, escapes, groups, alternatives, `?`, `{n}` and
`{m,n}`, and `\b`; no `*`, `+` or `{m,}`, no references, no look-around (a rule says itself what may not stand beside a
match). From the parsed form comes a second expression, which matches every beginning of a match: text that is none
can be let go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from glm_crush.errors import ConfigError

__all__ = [
    "MOST_CHARACTERS",
    "Chars",
    "Choice",
    "Edge",
    "Node",
    "Repeat",
    "Row",
    "beginnings",
    "firsts",
    "parse",
    "width",
]

MOST_CHARACTERS = 512
_ESCAPES_OF_CLASSES = "dDwWsS"
_OPENERS = re.compile(r"\(\?:|\(\?P<\w+>|\((?!\?)")
_COUNT = re.compile(r"\{(\d{1,4})(?:,(\d{1,4}))?\}")


@dataclass(frozen=True)
class Chars:
    """One character of a set, as it is written."""

    source: str


@dataclass(frozen=True)
class Edge:
    """The edge of a word: no characters."""

    source: str


@dataclass(frozen=True)
class Row:
    """One after the other."""

    items: tuple[Node, ...]

    @property
    def source(self) -> str:
        return "".join(item.source for item in self.items)


@dataclass(frozen=True)
class Choice:
    """One of several."""

    options: tuple[Node, ...]

    @property
    def source(self) -> str:
        return f"(?:{'|'.join(option.source for option in self.options)})"


@dataclass(frozen=True)
class Repeat:
    """The same several times, as often as can be."""

    item: Node
    low: int
    high: int

    @property
    def source(self) -> str:
        inner = self.item.source if isinstance(self.item, (Chars, Choice)) else f"(?:{self.item.source})"
        return f"{inner}?" if (self.low, self.high) == (0, 1) else f"{inner}{{{self.low},{self.high}}}"


Node = Chars | Edge | Row | Choice | Repeat


def parse(pattern: str) -> Node:
    """The parsed form.

    Raises:
        ConfigError: it is malformed, outside the subset, or its matches may be too long.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"the pattern {pattern!r:.120} is malformed: {error}") from None
    reader = _Reader(pattern)
    node = reader.choice()
    if reader.position != len(pattern):
        raise reader.refuse("a bracket is closed that was not opened")
    if width(node) > MOST_CHARACTERS:
        raise ConfigError(
            f"the pattern {pattern!r:.120} matches up to {width(node)} characters; the limit is {MOST_CHARACTERS}, "
            "since streams are held back by as much: give smaller counts"
        )
    return node


def width(node: Node) -> int:
    """Characters of the longest match."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Edge):
        return 0
    if isinstance(node, Repeat):
        return node.high * width(node.item)
    if isinstance(node, Choice):
        return max(map(width, node.options))
    return sum(map(width, node.items))


def beginnings(node: Node) -> str:
    """An expression for every beginning of a match that is not empty, also the whole of it; "" = there is none."""
    if isinstance(node, Chars):
        return node.source
    if isinstance(node, Edge):
        return ""
    if isinstance(node, Repeat):
        if isinstance(node.item, Chars):
            return f"{node.item.source}{{1,{node.high}}}"
        inner = beginnings(node.item)
        return f"(?:{node.item.source}){{0,{node.high - 1}}}(?:{inner})" if inner else ""
    if isinstance(node, Choice):
        return "|".join(found for option in node.options if (found := beginnings(option)))
    return _beginnings_of_sequence(node.items)


def firsts(node: Node) -> tuple[list[str], bool]:
    """What a match may begin with, one entry for each set of characters; and whether it may be empty."""
    if isinstance(node, Chars):
        return [node.source], False
    if isinstance(node, Edge):
        return [], True
    if isinstance(node, Repeat):
        found, is_empty = firsts(node.item)
        return found, is_empty or node.low == 0
    if isinstance(node, Choice):
        options = [firsts(option) for option in node.options]
        return [source for found, _ in options for source in found], any(empty for _, empty in options)
    sources: list[str] = []
    for item in node.items:
        found, is_empty = firsts(item)
        sources += found
        if not is_empty:
            return sources, False
    return sources, True


def _beginnings_of_sequence(items: Sequence[Node]) -> str:
    rest = ""
    for item in reversed(items):
        here = beginnings(item)
        whole = f"{item.source}(?:{rest})" if rest else ""
        rest = f"{here}|{whole}" if here and whole else here or whole
    return rest


class _Reader:
    """Reads a pattern that Python's compiler has taken, from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def choice(self) -> Node:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def refuse(self, reason: str) -> ConfigError:
        return ConfigError(f"the pattern {self.pattern!r:.120} cannot be used, at position {self.position}: {reason}")

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            items.append(self._counted(self._atom()))
        return items[0] if len(items) == 1 else Row(tuple(items))

    def _atom(self) -> Node:
        character = self.pattern[self.position]
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in "*+^$":
            raise self.refuse(f"{character} is not taken here; write a count such as {{1,64}}, or \\b")
        self.position += 1
        return Chars(character)

    def _group(self) -> Node:
        opener = _OPENERS.match(self.pattern, self.position)
        if opener is None:
            raise self.refuse("look-around, flags and references are not taken here")
        self.position = opener.end()
        inner = self.choice()
        if not self._take(")"):
            raise self.refuse("a bracket is not closed")
        return Choice((inner,))

    def _class(self) -> Node:
        start = self.position
        self.position += 2 if self.pattern.startswith("[^", start) else 1
        if self.pattern.startswith("]", self.position):
            self.position += 1
        while self.pattern[self.position] != "]":
            self.position += 2 if self.pattern[self.position] == "\\" else 1
        self.position += 1
        return Chars(self.pattern[start : self.position])

    def _escape(self) -> Node:
        letter = self.pattern[self.position + 1]
        length = {"x": 4, "u": 6, "U": 10}.get(letter, 2)
        if letter in "bB":
            length, is_edge = 2, True
        else:
            is_edge = False
        if letter.isalnum() and not is_edge and length == 2 and letter not in f"{_ESCAPES_OF_CLASSES}nrtfv":
            raise self.refuse(f"\\{letter} is not taken here")
        source = self.pattern[self.position : self.position + length]
        self.position += length
        return Edge(source) if is_edge else Chars(source)

    def _counted(self, node: Node) -> Node:
        if self.position >= len(self.pattern):
            return node
        character = self.pattern[self.position]
        if character in "*+":
            raise self.refuse(f"{character} has no largest count; write one, such as {{1,64}}")
        if character == "?":
            self.position += 1
            return self._once(Repeat(node, 0, 1))
        count = _COUNT.match(self.pattern, self.position)
        if count is None:
            if character == "{" and re.match(r"\{\d*,\d*\}", self.pattern[self.position :]):
                raise self.refuse("a count without a largest number; write both, such as {1,64}")
            return node
        self.position = count.end()
        low = int(count[1])
        return self._once(Repeat(node, low, low if count[2] is None else int(count[2])))

    def _once(self, node: Repeat) -> Node:
        if self.position < len(self.pattern) and self.pattern[self.position] in "?+*":
            raise self.refuse("lazy and possessive counts are not taken here")
        if node.high == 0:
            raise self.refuse("a count of nothing; leave it out")
        return node

    def _take(self, character: str) -> bool:
        if self.pattern.startswith(character, self.position):
            self.position += 1
            return True
        return False
