"""One direction of a policy, compiled; and one text on its way through it.

Above: the guard. Below: the scanner and the rules. First what nobody sees, then what is found in what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glm_crush.serving.guard.hidden import hidden_rules
from glm_crush.serving.guard.policy import DirectionPolicy, RuleBook
from glm_crush.serving.guard.rule import Action
from glm_crush.serving.guard.scanner import RuleSet, Scanner
from glm_crush.serving.guard.text_check import TextCheck

__all__ = ["Filtered", "Filters", "TextFilter"]


@dataclass(frozen=True, slots=True)
class Filtered:
    """What became of a piece of text.

    Attributes:
        text: to go on with. found: rules and what was done, once for each finding.
        blocked_by: the rule that ends the text here; None = it goes on.
    """

    text: str
    found: tuple[tuple[str, Action], ...] = ()
    blocked_by: str | None = None


class Filters:
    """The rules of one direction.

    Attributes:
        checks: of whole texts, with what is done about them.
        alters: whether a text may come out other than it went in.
        largest: characters that a stream may have to hold back.
    """

    def __init__(self, policy: DirectionPolicy, book: RuleBook) -> None:
        self.is_empty = policy.is_empty
        self.alters = policy.alters
        self.checks: Sequence[tuple[TextCheck, Action]] = [
            (check, policy.checks[check.name]) for check in book.checks if check.name in policy.checks
        ]
        self.blocks_wholes = any(action == "block" for _, action in self.checks)
        rules = [rule for rule in book.spans if rule.name in policy.spans]
        self._stages: list[tuple[RuleSet, Mapping[str, Action]]] = []
        if policy.hidden is not None:
            self._stages.append((RuleSet(hidden_rules()), {"hidden": policy.hidden}))
        if rules:
            self._stages.append((RuleSet(rules), policy.spans))
        self.largest = sum(stage.largest for stage, _ in self._stages)

    def begin(self, *, is_json: bool = False) -> TextFilter:
        """A filter for one text; `is_json`: it is JSON, and stays so."""
        return TextFilter(self._stages, is_json=is_json)

    def marked(self, text: str) -> list[tuple[str, str | None, Action | None]]:
        """The pieces of a text, each with the rule that finds it and what is done about it; None = plain text."""
        pieces: list[tuple[str, str | None, Action | None]] = [(text, None, None)]
        for rules, actions in self._stages:
            plain = "".join(piece for piece, _, action in pieces if action != "redact")
            pieces = [
                (span.text, None, None) if span.rule is None else (span.text, span.rule.name, actions[span.rule.name])
                for span in Scanner(rules).push(plain, final=True)
            ]
        return pieces

    def apply(self, text: str, *, is_json: bool = False) -> Filtered:
        """All of a text."""
        return self.begin(is_json=is_json).push(text, final=True)


class TextFilter:
    """One text that comes in pieces."""

    def __init__(self, stages: Sequence[tuple[RuleSet, Mapping[str, Action]]], *, is_json: bool = False) -> None:
        self._stages = [(Scanner(rules), actions) for rules, actions in stages]
        self._json = _JsonPlace() if is_json else None

    @property
    def num_held(self) -> int:
        """Characters that are held back."""
        return sum(scanner.num_held for scanner, _ in self._stages)

    def push(self, text: str, *, final: bool = False) -> Filtered:
        """What is decided by now. After a finding that blocks nothing more may be pushed."""
        found: list[tuple[str, Action]] = []
        blocked_by: str | None = None
        for number, (scanner, actions) in enumerate(self._stages):
            place = self._json if number == len(self._stages) - 1 else None
            step = _apply(scanner, actions, text, final=final, place=place)
            found += step.found
            text = step.text
            if step.blocked_by is not None:  # what comes before it is the end of the text, for the next stages too
                blocked_by, final = step.blocked_by, True
        return Filtered(text, tuple(found), blocked_by)


def _apply(
    scanner: Scanner, actions: Mapping[str, Action], text: str, *, final: bool, place: _JsonPlace | None
) -> Filtered:
    out: list[str] = []
    found: list[tuple[str, Action]] = []
    for span in scanner.push(text, final=final):
        if span.rule is None:
            out.append(span.text)
        else:
            action = actions[span.rule.name]
            if not span.goes_on:
                found.append((span.rule.name, action))
            if action == "block":
                return Filtered("".join(out), tuple(found), span.rule.name)
            if action == "flag":
                out.append(span.text)
            elif not span.goes_on:
                out.append(span.rule.label if place is None else place.quoted(span.rule.label))
        if place is not None:
            place.read(span.text)
    return Filtered("".join(out), tuple(found))


class _JsonPlace:
    """Whether a place in JSON lies inside a text, so that a label put there leaves it JSON."""

    def __init__(self) -> None:
        self._in_text = self._escaped = False

    def read(self, text: str) -> None:
        for character in text:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = self._in_text
            elif character == '"':
                self._in_text = not self._in_text

    def quoted(self, label: str) -> str:
        """The label as it has to be written here."""
        return label if self._in_text or not label else f'"{label}"'
