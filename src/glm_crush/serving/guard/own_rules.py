"""The operator's own words and patterns as rules.

Above: the policy file. Below: span rules. Patterns are matched by RE2, in time linear in the text whatever they are:
so neither their author nor a stranger's text can keep the server busy. Words are compared without case and accents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from glm_crush.errors import ConfigError
from glm_crush.serving.guard.bounded import MOST_CHARACTERS, beginnings, parse, width
from glm_crush.serving.guard.rule import Expression, SpanRule, span_rule

__all__ = ["pattern_rule", "word_rule"]

_ACCENTS = {
    "a": "aàáâãäå",
    "c": "cç",
    "e": "eèéêë",
    "i": "iìíîï",
    "n": "nñ",
    "o": "oòóôõö",
    "u": "uùúûü",
    "y": "yýÿ",
}
_PLAIN = {accented: f"[{letters}]" for letters in _ACCENTS.values() for accented in letters}


def word_rule(name: str, words: Sequence[str], label: str | None = None) -> SpanRule:
    """Whole words and phrases; several spaces count as one.

    Raises:
        ConfigError: there is none, or one is empty or too long.
    """
    for word in words:
        if not word.strip() or len(word) > MOST_CHARACTERS // 2:
            raise ConfigError(
                f"{name} holds the word {word!r:.80}; a word has between 1 and {MOST_CHARACTERS // 2} characters"
            )
    if not words:
        raise ConfigError(f"{name} holds no words; give some, or leave it out")
    longest_first = sorted({" ".join(word.lower().split()) for word in words}, key=len, reverse=True)
    body = "|".join(_pattern(word) for word in longest_first)
    # Scripts without spaces have no word edges: there a word may stand anywhere.
    edge = r"A-Za-zÀ-ÖØ-öø-ÿ\d_"
    spaced = all(re.match(rf"[{edge}]", word[0]) and re.match(rf"[{edge}]", word[-1]) for word in longest_first)
    edges = edge if spaced else ""
    return span_rule(name, body, label=label, before=edges, after=edges, ignore_case=True)


def pattern_rule(name: str, pattern: str, label: str | None = None, *, ignore_case: bool = False) -> SpanRule:
    """A pattern of the operator's.

    Raises:
        ConfigError: it is malformed or its matches may be too long, or RE2 is not installed.
    """
    try:
        import re2
    except ImportError as error:
        raise ConfigError(
            f"{name} is a pattern, and RE2, which matches patterns in linear time, is not installed; "
            "pip install 'glm-crush[guard]'"
        ) from error
    node = parse(pattern)
    flags = "(?i)" if ignore_case else ""
    try:
        matches: Expression = re2.compile(f"{flags}({node.source})")
        unfinished: Expression = re2.compile(rf"{flags}(?:{beginnings(node)})\z")
    except re2.error as error:
        raise ConfigError(f"{name}: the pattern {pattern!r:.120} is refused by RE2: {error}") from None
    if matches.match("") is not None:
        raise ConfigError(f"{name}: the pattern {pattern!r:.120} matches nothing at all; make part of it necessary")
    return SpanRule(
        name=name,
        label=label or f"[{name.rpartition('.')[2].upper()}]",
        pattern=matches,
        source=node.source,
        starts="",
        largest=width(node),
        unfinished=unfinished,
    )


def _pattern(word: str) -> str:
    parts = [_PLAIN.get(character) or re.escape(character) for character in word]
    return "".join(r"\s{1,8}" if part == r"\ " else part for part in parts)
