"""Finds the spans of many rules in a text that comes in pieces; in one piece it finds the same.

Above: the filters of requests and replies. Below: the rules. From left to right: at the first place where a rule finds
something the first such rule in their order has it, and the search goes on behind it. A place is decided once no match
that begins there can be changed by what is still to come; what is decided is let go.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from glm_crush.serving.guard.rule import Expression, SpanRule, Tail

__all__ = ["RuleSet", "Scanner", "Span"]

_CONTEXT = 1  # characters before a match that decide about it


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the text as it is let go.

    Attributes:
        rule: what it is; None = plain text. text: as it stands in the original.
        goes_on: it belongs to the finding before it.
    """

    rule: SpanRule | None
    text: str
    goes_on: bool = False


class RuleSet:
    """Rules in their order, compiled together.

    Attributes:
        largest: characters that a stream may have to hold back.
    """

    def __init__(self, rules: Sequence[SpanRule]) -> None:
        self.rules = tuple(rules)
        self.largest = max((rule.largest for rule in rules), default=0)
        self._apart = [rule for rule in rules if not rule.joins]
        starts = [rule.starts for rule in rules if rule.joins]
        self._starts = re.compile(rf"(?:{'|'.join(starts)})\Z") if starts else None
        families: dict[object, list[tuple[int, SpanRule]]] = {}
        for number, rule in enumerate(rules):
            families.setdefault(rule.needs if rule.joins else number, []).append((number, rule))
        self._families = [_Family(family) for family in families.values()]

    def find(self, text: str, position: int, limit: int) -> Iterator[tuple[SpanRule, int, int]]:
        """The findings whose matches begin in `[position, limit)`, from left to right: rule, start and end."""
        lower = text.lower()
        families = [family for family in self._families if family.concerns(lower)]
        heap = [(family.place(text, position), number) for number, family in enumerate(families)]
        heapq.heapify(heap)
        while heap:
            place, number = heap[0]
            if place < position:
                heapq.heapreplace(heap, (families[number].place(text, position), number))
                continue
            if place >= limit:
                return
            here = [rule for at, number in heap if at == place for rule in families[number].rules]
            position = place + 1
            for _, rule in sorted(here, key=itemgetter(0)):
                span = rule.span(text, place)
                if span is not None and span[1] > span[0]:
                    yield rule, *span
                    position = span[1]
                    break

    def undecided(self, text: str, position: int) -> int:
        """The first place from which on a match may still begin or change when more text comes."""
        found = None if self._starts is None else self._starts.search(text, position)
        first = len(text) if found is None else found.start()
        for rule in self._apart:
            assert rule.unfinished is not None
            found = rule.unfinished.search(text, position)
            first = first if found is None else min(first, found.start())
        return first


class _Family:
    """Rules that need the same in a text, compiled together.

    Attributes:
        rules: each with its place in the order.
    """

    def __init__(self, rules: Sequence[tuple[int, SpanRule]]) -> None:
        self.rules = rules
        self._needs = rules[0][1].needs
        self._pattern: Expression
        self._first: re.Pattern[str] | None = None
        if not rules[0][1].joins:
            self._pattern = rules[0][1].pattern
            return
        self._pattern = re.compile("|".join(rule.source for _, rule in rules))
        if not self._needs:  # an order of magnitude faster where matches seldom begin
            self._first = re.compile("|".join(rule.first for _, rule in rules))

    def concerns(self, lower: str) -> bool:
        """Whether a text, in lower case, can have a match at all."""
        return not self._needs or any(need in lower for need in self._needs)

    def place(self, text: str, position: int) -> int:
        """Where the next match begins; beyond the text if there is none."""
        if self._first is None:
            found = self._pattern.search(text, position)
            return len(text) + 1 if found is None else int(found.start())
        first, match = self._first.search, self._pattern.match
        while (found := first(text, position)) is not None:
            position = found.start()
            if match(text, position) is not None:
                return position
            position += 1
        return len(text) + 1


class Scanner:
    """One text on its way through a set of rules."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._text = ""  # what is undecided, behind as much as may decide about it
        self._position = 0  # of the first undecided character in it
        self._tail: tuple[SpanRule, Tail] | None = None
        self._taken = 0  # of the tail

    @property
    def num_held(self) -> int:
        """Characters that are held back."""
        return len(self._text) - self._position

    def push(self, text: str, *, final: bool = False) -> list[Span]:
        """What is decided now, in order; `final`: there is no more."""
        self._text += text
        spans: list[Span] = []
        if self._tail is not None:
            self._swallow(spans, *self._tail, final=final)
        if self._tail is None:
            self._scan(spans, final=final)
        cut = max(0, self._position - _CONTEXT)
        self._text, self._position = self._text[cut:], self._position - cut
        return spans

    def _scan(self, spans: list[Span], *, final: bool) -> None:
        text, limit = self._text, -1
        while self._tail is None and limit < self._position:
            limit = len(text) if final else self._rules.undecided(text, self._position)
            for rule, start, end in self._rules.find(text, self._position, limit):
                self._let_go(spans, None, start)
                self._let_go(spans, rule, end)
                if rule.tail is not None:
                    self._taken = 0
                    self._swallow(spans, rule, rule.tail, final=final)
                    limit = min(limit, self._position - 1)  # what else was found lies in the tail: look again behind it
                    break
            if limit >= self._position:
                self._let_go(spans, None, limit)

    def _swallow(self, spans: list[Span], rule: SpanRule, tail: Tail, *, final: bool) -> None:
        """The tail as far as it is here; its text belongs to the finding."""
        end, is_end = tail.end(self._text, self._position, self._taken, final=final)
        self._taken += end - self._position
        self._let_go(spans, rule, end, goes_on=True)
        self._tail = None if is_end else (rule, tail)

    def _let_go(self, spans: list[Span], rule: SpanRule | None, end: int, *, goes_on: bool = False) -> None:
        if end > self._position:
            spans.append(Span(rule, self._text[self._position : end], goes_on))
            self._position = end
