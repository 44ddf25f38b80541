"""No text makes a rule of ours work more than a bounded number of steps for each of its characters.

Python's expressions try their alternatives one after the other, so a badly written one takes exponential time on the
right text. Here the steps are counted, not timed: a matcher of our own tries as Python's does, over texts made of
the rule's own beginnings, which are what keeps it trying for longest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from glm_crush.errors import ConfigError
from glm_crush.serving.guard.bounded import Chars, Choice, Edge, Node, Repeat, Row, parse
from glm_crush.serving.guard.credentials import credential_rules
from glm_crush.serving.guard.hidden import hidden_rules
from glm_crush.serving.guard.pii import pii_rules
from glm_crush.serving.guard.rule import SpanRule

pytestmark = pytest.mark.requirement("S7")

ALPHABET = "aZ0 .-@中"
CHARACTERS = "a0AZ9 .-+/()@:=_#é中护照密码RNPTxbcdefghijklmnopqrstuvwyz\u200b"
MOST_STEPS = 6_000  # for one place, however long the text


RULES = [*credential_rules(), *pii_rules(), *hidden_rules()]


class Counting:
    """Tries a pattern at the beginning of a text as a backtracking matcher does; counts the characters it looks at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0
        self._sets: dict[str, re.Pattern[str]] = {}

    def ends(self, node: Node, position: int) -> Iterator[int]:
        """Every place where a match may end, in the order in which it is tried."""
        if isinstance(node, Chars):
            self.steps += 1
            matcher = self._sets.setdefault(node.source, re.compile(node.source, re.IGNORECASE))
            if position < len(self.text) and matcher.fullmatch(self.text[position]):
                yield position + 1
        elif isinstance(node, Edge):
            yield position
        elif isinstance(node, Choice):
            for option in node.options:
                yield from self.ends(option, position)
        elif isinstance(node, Repeat):
            yield from self._repeated(node, position, 0)
        else:
            assert isinstance(node, Row)
            yield from self._row(node.items, position)

    def _row(self, items: tuple[Node, ...], position: int) -> Iterator[int]:
        if not items:
            yield position
            return
        for end in self.ends(items[0], position):
            yield from self._row(items[1:], end)

    def _repeated(self, node: Repeat, position: int, count: int) -> Iterator[int]:
        if count < node.high:
            for end in self.ends(node.item, position):
                if end > position:
                    yield from self._repeated(node, end, count + 1)
        if count >= node.low:
            yield position


def longest_tries(node: Node) -> list[str]:
    """Texts that keep it trying: characters over and over, behind what the pattern begins with."""
    begun = beginning_of(node)
    return [f"{begun}{character * 400}" for character in ("", *ALPHABET)] + ["0 " * 200, "a." * 200, "a@a." * 100]


def beginning_of(node: Node) -> str:
    """A text that the node matches but for its end: the first option everywhere, counts a little below the largest."""
    if isinstance(node, Chars):
        return next((c for c in CHARACTERS if re.fullmatch(node.source, c, re.IGNORECASE)), "")
    if isinstance(node, Choice):
        return beginning_of(node.options[0])
    if isinstance(node, Repeat):
        return beginning_of(node.item) * max(1, node.high - 1)
    return "".join(map(beginning_of, node.items)) if isinstance(node, Row) else ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_place_costs_a_bounded_number_of_steps(rule: SpanRule) -> None:
    whole = Row(rule.parsed)
    for text in longest_tries(whole):
        counting = Counting(text)
        assert all(counting.steps <= MOST_STEPS for _ in counting.ends(whole, 0)), text[:40]
        assert counting.steps <= MOST_STEPS, text[:40]


def test_the_count_sees_an_exponential_pattern() -> None:
    counting = Counting("a" * 12)
    assert not list(counting.ends(parse("(?:(?:a{1,4}){1,4}){1,4}b"), 0))
    assert counting.steps > MOST_STEPS


def test_unbounded_patterns_cannot_be_written() -> None:
    with pytest.raises(ConfigError):
        parse("a+")
