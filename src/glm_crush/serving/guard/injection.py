"""How much a text looks like an attempt to talk a model out of its instructions, in three languages.

Above: policies. Below: plain text. Every sign has a weight, and the score is the chance that at least one of them is
right: 1 - (1 - a)(1 - b)...; each sign counts once. These are rules: they find what is written like known attempts, and
a determined attacker finds words that they do not know. Use them beside a guard model, not instead of one.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from glm_crush.serving.guard.hidden import hidden_rules, plain_text
from glm_crush.serving.guard.scanner import RuleSet

__all__ = ["InjectionScore", "Injections"]

_LONGEST = 200_000  # characters that are looked at, half from each end
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{24,4096}={0,2}")
# i g n o r e  a l l: letters with something between them, and what they say without it
_SPACED = re.compile(r"(?:\b\w[ .\-_*]{1,3}){6}\w\b")
_NO_WORD = re.compile(r"[\W_]")
_SQUEEZED = re.compile(
    r"(?:ignore|disregard|forget|override)(?:all|any|the|your|previous|prior|above|system){1,4}(?:instruction|prompt|rule)|"
    r"(?:ignore|ignora|esqueca|desconsidere)(?:todas|as|suas|tuas|anteriores){1,4}(?:instruc|regra|orienta)|"
    r"(?:忽略|无视|忘记)(?:之前|以上|所有|你|的){1,4}(?:指令|规则|提示)"
)


@dataclass(frozen=True, slots=True)
class InjectionScore:
    """A score in [0, 1] and the names of the signs that made it."""

    score: float
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sign:
    """See `injection_signs.toml`."""

    name: str
    weight: float
    needs: tuple[str, ...]
    pattern: re.Pattern[str]


class Injections:
    """Scores texts. Compiles its patterns once."""

    def __init__(self) -> None:
        self._signs = _read_signs()
        self._hidden = RuleSet(hidden_rules())

    def score(self, text: str) -> InjectionScore:
        """How much it looks like an attempt."""
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]}\n{text[-_LONGEST // 2 :]}"
        weights: dict[str, float] = {}
        plain = plain_text(text)
        for name, weight in self._found(plain):
            weights[name] = max(weight, weights.get(name, 0.0))
        if not text.isascii() and next(self._hidden.find(text, 0, len(text)), None) is not None:
            weights["hidden"] = 0.3
        squeezed = _SQUEEZED.search(_NO_WORD.sub("", plain)) if _SPACED.search(plain) else None
        if squeezed is not None:
            weights |= {"override": 0.75, "wrapped": 0.4}
        for unwrapped in _unwrapped(text):
            for name, weight in self._found(plain_text(unwrapped)):
                weights[name] = max(weight, weights.get(name, 0.0))
                weights["wrapped"] = 0.4
        missed = 1.0
        for weight in weights.values():
            missed *= 1.0 - weight
        return InjectionScore(round(1.0 - missed, 4), tuple(sorted(weights)))

    def _found(self, plain: str) -> Iterator[tuple[str, float]]:
        for sign in self._signs:
            if any(need in plain for need in sign.needs) and sign.pattern.search(plain):
                yield sign.name, sign.weight


def _read_signs() -> list[_Sign]:
    text = (resources.files(__package__) / "injection_signs.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    signs = []
    for table in document["sign"]:
        pattern = table["pattern"]
        for name, members in document["sets"].items():
            pattern = pattern.replace(f"{{{name}}}", members)
        signs.append(_Sign(table["name"], table["weight"], tuple(table["needs"]), re.compile(pattern)))
    return signs


def _unwrapped(text: str) -> Iterator[str]:
    """What base64 hides."""
    for found in _BASE64.finditer(text):
        body = found[0].rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            decoded = base64.b64decode(body + "=" * (-len(body) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if decoded.isprintable() or "\n" in decoded:
            yield decoded
