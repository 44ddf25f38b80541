"""A rule that finds spans in a text, and what it finds.

Above: the lists of rules, the scanner. Below: bounded patterns. Whatever a rule finds at a place depends on nothing but
the match there, the character before it and the one after: so a stream can be judged like the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from glm_crush.serving.guard.bounded import Node, Row, beginnings, firsts, parse, width

__all__ = ["Action", "Direction", "Expression", "Finding", "SpanRule", "Tail", "span_rule"]

Action = Literal["block", "redact", "flag"]
Direction = Literal["input", "output"]
Check = Callable[[str], int | None]
"""Of the candidate's text: how many of its characters are the thing, or None if it is something else."""

_EDGE = r"A-Za-z\d_"


class Expression(Protocol):
    """A compiled expression of `re` or of RE2."""

    def search(self, text: str, pos: int = 0, /) -> Any:
        """The first match from here on."""
        ...

    def match(self, text: str, pos: int = 0, /) -> Any:
        """The match that begins here."""
        ...


class Tail(Protocol):
    """What belongs to a finding behind its match, however long it is."""

    def end(self, text: str, position: int, taken: int, *, final: bool) -> tuple[int, bool]:
        """Where it ends, and whether that is its end; `taken` of it came before `position`."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: never the text itself.

    Attributes:
        start, end: in the original text.
    """

    rule: str
    action: Action
    start: int = 0
    end: int = 0


@dataclass(frozen=True, kw_only=True)
class SpanRule:
    """Finds spans.

    Attributes:
        name: `group.kind`. label: stands for what is redacted.
        pattern: its group 1 is the span. source: the same without groups. starts: of every beginning of a match.
        largest: characters of the longest match. check: see `Check`. tail: what goes on behind it.
        first: of the characters that a match begins with.
        needs: one of these stands in every text that has a match, in lower case; none = it may be any text.
        is_guess: too often wrong to be on unless it is asked for by name.
        unfinished: matches a beginning that reaches to the end of the text, for a rule whose expressions are not
            Python's; None = `source` and `starts` are joined with those of other rules.
        parsed: what `source` was made of, where it is Python's: what a match may cost is told by it.
    """

    name: str
    label: str
    pattern: Expression
    source: str
    starts: str
    largest: int
    check: Check | None = None
    tail: Tail | None = None
    first: str = ""
    needs: tuple[str, ...] = ()
    is_guess: bool = False
    unfinished: Expression | None = None
    parsed: tuple[Node, ...] = ()

    @property
    def joins(self) -> bool:
        return self.unfinished is None

    def span(self, text: str, position: int) -> tuple[int, int] | None:
        """The span of the match that begins at `position`."""
        found = self.pattern.match(text, position)
        if found is None:
            return None
        start, end = found.span(1)
        if self.check is not None:
            length = self.check(text[start:end])
            if length is None:
                return None
            end = start + length
        return start, end


def span_rule(
    name: str,
    body: str,
    *,
    label: str | None = None,
    context: str = "",
    check: Check | None = None,
    tail: Tail | None = None,
    before: str = _EDGE,
    after: str = _EDGE,
    needs: tuple[str, ...] = (),
    ignore_case: bool = False,
    is_guess: bool = False,
) -> SpanRule:
    """A rule over Python's own expressions.

    Args:
        name: `group.kind`.
        body: what is found.
        label: None = the kind in capitals, in brackets.
        context: what has to stand before it, and is not part of it.
        check: see `Check`.
        tail: see `Tail`.
        before: characters that may not stand before it.
        after: characters that may not stand behind it.
        needs: see `SpanRule`.
        is_guess: see `SpanRule`.
        ignore_case: of context and body.
    """
    lead, node = parse(context) if context else None, parse(body)
    flag = "(?i:" if ignore_case else "(?:"
    guard_before = f"(?<![{before}])" if before else ""
    guard_after = f"(?![{after}])" if after else ""
    start = f"{guard_before}{flag}{'' if lead is None else _grouped(lead)}"
    partial = beginnings(node)
    if lead is not None:
        partial = f"{beginnings(lead)}|{_grouped(lead)}(?:{partial})"
    return SpanRule(
        name=name,
        label=f"[{name.rpartition('.')[2].upper()}]" if label is None else label,
        pattern=re.compile(f"{start}({node.source})){guard_after}"),
        source=f"{start}{_grouped(node)}){guard_after}",
        starts=f"{guard_before}{flag}{partial})",
        largest=width(node) + (0 if lead is None else width(lead)),
        check=check,
        tail=tail,
        first=f"{flag}{'|'.join(dict.fromkeys(firsts(node if lead is None else Row((lead, node)))[0]))})",
        needs=needs,
        parsed=(node,) if lead is None else (lead, node),
        is_guess=is_guess,
    )


def _grouped(node: Node) -> str:
    return f"(?:{node.source})"
