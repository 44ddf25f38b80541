"""What is done about which findings, in which direction: the operator's words made into filters.

Above: the guard. Below: lists of rules, the policy file. A policy never changes; its fingerprint does when anything in
it is another.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from glm_crush.errors import ConfigError
from glm_crush.serving.guard.rule import Action, Direction, SpanRule
from glm_crush.serving.guard.text_check import TextCheck

__all__ = ["DirectionPolicy", "Policy", "RuleBook", "parse_actions"]

_ACTIONS = get_args(Action)


@dataclass(frozen=True)
class RuleBook:
    """Every rule there is.

    Attributes:
        spans: rules that find places, in their order. checks: rules that judge whole texts.
    """

    spans: Sequence[SpanRule]
    checks: Sequence[TextCheck]

    def names(self) -> list[str]:
        """All names and groups that a policy can speak of."""
        names = dict.fromkeys([*(rule.name for rule in self.spans), *(check.name for check in self.checks)])
        groups = dict.fromkeys(name.partition(".")[0] for name in names)
        return list(dict.fromkeys([*groups, *names]))


@dataclass(frozen=True)
class DirectionPolicy:
    """What is done in one direction.

    Attributes:
        hidden: whether and what about characters that nobody sees. spans: rules that find places, with their actions.
        checks: of whole texts.
    """

    hidden: Action | None = None
    spans: Mapping[str, Action] = field(default_factory=dict)
    checks: Mapping[str, Action] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.hidden is None and not self.spans and not self.checks

    @property
    def alters(self) -> bool:
        """Whether a text may come out other than it went in."""
        actions = (self.hidden, *self.spans.values(), *self.checks.values())
        return "block" in actions or "redact" in actions


@dataclass(frozen=True)
class Policy:
    """What is done in both directions. `fingerprint` changes when anything about it does."""

    input: DirectionPolicy = field(default_factory=DirectionPolicy)
    output: DirectionPolicy = field(default_factory=DirectionPolicy)
    fingerprint: str = ""

    @classmethod
    def of(cls, given: Mapping[Direction, str | None], book: RuleBook, salt: str) -> Policy:
        """The policy that texts such as 'pii=redact, secrets=block' ask for.

        Args:
            given: for each direction.
            book: the rules there are.
            salt: what else decides about findings: thresholds, the rules file.

        Raises:
            ConfigError: a rule or an action that there is not; names the nearest.
        """
        sides = {side: parse_actions(given.get(side), book, side) for side in get_args(Direction)}
        digest = hashlib.sha256(repr((sides, salt)).encode()).hexdigest()[:16]
        return cls(sides["input"], sides["output"], digest)


def parse_actions(text: str | None, book: RuleBook, direction: Direction) -> DirectionPolicy:
    """What one direction's text asks for; what is said of a rule counts more than what is said of its group.

    Raises:
        ConfigError: see `Policy.of`.
    """
    where = f"guard.{direction}"
    asked = _pairs(text, where)
    for name in asked:
        if name not in book.names():
            close = difflib.get_close_matches(name, book.names(), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(book.names())}"
            raise ConfigError(f"{where} names the rule {name!r:.60}, which there is not{hint}")
    spans: dict[str, Action] = {}
    for rule in book.spans:
        action = _action_of(rule.name, asked, is_guess=rule.is_guess)
        if action is not None:
            spans[rule.name] = action
    checks = {rule.name: action for rule in book.checks if (action := _action_of(rule.name, asked)) is not None}
    for check in book.checks:
        if check.name in checks:
            _check_check(check, checks[check.name], direction, where)
    return DirectionPolicy(spans.pop("hidden", None), spans, checks)


def _pairs(text: str | None, where: str) -> dict[str, Action]:
    asked: dict[str, Action] = {}
    for item in filter(None, (part.strip() for part in (text or "").split(","))):
        name, equals, word = (part.strip() for part in item.partition("="))
        if not equals or word not in _ACTIONS:
            raise ConfigError(f"{where} holds {item!r:.80}; write RULE=ACTION, with {', '.join(_ACTIONS)} as action")
        asked[name] = word  # type: ignore[assignment]  # it is one of them
    return asked


def _action_of(name: str, asked: Mapping[str, Action], *, is_guess: bool = False) -> Action | None:
    group = None if is_guess else asked.get(name.partition(".")[0])
    return asked.get(name, group)


def _check_check(check: TextCheck, action: Action, direction: Direction, where: str) -> None:
    if action == "redact":
        raise ConfigError(f"{where} says {check.name}=redact; {check.name} judges whole texts: say block or flag")
    if check.problem is not None:
        raise ConfigError(f"{where} names {check.name}: {check.problem}")
    if direction not in check.directions:
        there = " and ".join(check.directions)
        raise ConfigError(f"{where} names {check.name}, which is for {there} alone; leave it out")
