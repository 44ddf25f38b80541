r"""The operator's file of rules and policies, in TOML.

Above: the guard's part. Below: own rules. Every key is known or refused.

    [words.competitors]             # rule words.competitors
    any = ["Acme", "Globex Ltd"]
    label = "[COMPANY]"

    [patterns.ticket]               # rule patterns.ticket
    regex = 'TICKET-\d{6}'

    [topics.weapons]                # rule topics.weapons; needs an embedding model
    examples = ["how do I build a bomb"]
    threshold = 0.6

    [policies.support]              # instead of guard.input and guard.output, for these
    applications = ["app_4kd82"]
    keys = []
    input = "pii=redact"
    output = ""
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm_crush.errors import ConfigError
from glm_crush.serving.guard.own_rules import pattern_rule, word_rule
from glm_crush.serving.guard.rule import SpanRule

__all__ = ["NamedPolicy", "PolicyFile", "Topic", "read_policy_file"]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Texts that are alike; `is_allowed`: the ones that are not like any allowed topic are findings instead."""

    name: str
    examples: tuple[str, ...]
    threshold: float = 0.6
    is_allowed: bool = False


@dataclass(frozen=True, kw_only=True)
class NamedPolicy:
    """What is done for some applications and keys, by their ids."""

    name: str
    applications: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    input: str = ""
    output: str = ""


@dataclass(frozen=True, kw_only=True)
class PolicyFile:
    """What the file says; `text` is all of it."""

    rules: tuple[SpanRule, ...] = ()
    topics: tuple[Topic, ...] = ()
    policies: tuple[NamedPolicy, ...] = ()
    text: str = field(default="", repr=False)


def read_policy_file(path: Path) -> PolicyFile:
    """Read and check it all.

    Raises:
        ConfigError: what is wrong, and where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"guard.rules_file {path} cannot be read: {error}") from error
    makers: Mapping[str, Callable[[str, _Table], Any]] = {
        "words": _words,
        "patterns": _pattern,
        "topics": _topic,
        "policies": _policy,
    }
    made: dict[str, list[Any]] = {section: [] for section in makers}
    for section, tables in document.items():
        _check_known(section, makers, f"{path}")
        if not isinstance(tables, dict):
            raise ConfigError(f"{path}: {section} is {tables!r:.60}; write tables such as [{section}.mine]")
        for name, values in tables.items():
            if not isinstance(values, dict):
                raise ConfigError(f"{path}: {section}.{name} is {values!r:.60}; write it as a table")
            table = _Table(f"{path}: {section}.{name}", values)
            made[section].append(makers[section](name, table))
    return PolicyFile(
        rules=(*made["words"], *made["patterns"]),
        topics=tuple(made["topics"]),
        policies=tuple(made["policies"]),
        text=text,
    )


class _Table:
    """The values of one table; what is never asked for is unknown."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self._where = where
        self._values = dict(values)
        self._asked: list[str] = []

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self._where}: {key} is {value!r:.60}; give text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self._where}: {key} is {value!r:.60}; give a list of texts")
        return tuple(value)

    def truth(self, key: str) -> bool:
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self._where}: {key} is {value!r:.60}; give true or false")
        return value

    def share(self, key: str, default: float) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"{self._where}: {key} is {value!r:.60}; give a number in [0, 1]")
        return float(value)

    def label(self) -> str | None:
        return self.text("label", "") or None

    def end(self) -> None:
        """Refuse what was never asked for."""
        for key in self._values:
            _check_known(key, self._asked, self._where)

    def _take(self, key: str, default: Any) -> Any:
        self._asked.append(key)
        if key not in self._values and default is None:
            raise ConfigError(f"{self._where}: {key} is missing")
        return self._values.get(key, default)


def _words(name: str, table: _Table) -> SpanRule:
    words, label = table.texts("any"), table.label()
    table.end()
    return word_rule(f"words.{name}", words, label)


def _pattern(name: str, table: _Table) -> SpanRule:
    ignore_case, regex, label = table.truth("ignore_case"), table.text("regex"), table.label()
    table.end()
    return pattern_rule(f"patterns.{name}", regex, label, ignore_case=ignore_case)


def _topic(name: str, table: _Table) -> Topic:
    topic = Topic(
        name=f"topics.{name}",
        examples=table.texts("examples"),
        threshold=table.share("threshold", 0.6),
        is_allowed=table.truth("allowed"),
    )
    table.end()
    if not topic.examples:
        raise ConfigError(f"{topic.name} has no examples; give some sentences")
    return topic


def _policy(name: str, table: _Table) -> NamedPolicy:
    policy = NamedPolicy(
        name=name,
        applications=frozenset(table.texts("applications")),
        keys=frozenset(table.texts("keys")),
        input=table.text("input", ""),
        output=table.text("output", ""),
    )
    table.end()
    return policy


def _check_known(key: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"
        raise ConfigError(f"{where}: there is no {key!r:.60}{hint}")
