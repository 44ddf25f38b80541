"""From what a file, a variable or a flag says to the typed value of a setting.

Above: `config.py`, which knows which settings there are. Below: nothing.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm_crush.errors import ConfigError

__all__ = ["SettingType", "nearest"]

_TRUTHS: Mapping[str, bool] = types.MappingProxyType({"true": True, "on": True, "false": False, "off": False})
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


@dataclass(frozen=True)
class SettingType:
    """What values a setting takes."""

    kind: type
    choices: tuple[str, ...]
    optional: bool
    low: float | None

    @classmethod
    def of(cls, hint: typing.Any, low: float | None) -> SettingType:
        """Read it from a field's annotation and lower bound."""
        arms = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
        optional = types.NoneType in typing.get_args(hint)
        is_choice = typing.get_origin(hint) is Literal
        kind = str if is_choice else (arms[0] if optional else hint)
        return cls(kind, tuple(arms) if is_choice else (), optional, low)

    def convert(self, key: str, value: object, origin: str) -> object:
        """The value of this type; text is parsed, numbers may be written 16k or 1.5k.

        Raises:
            ConfigError: it is none; says what to give, and where it came from.
        """
        wrong = ConfigError(f"{key} is {value!r} ({origin}); {self._expectation()}")
        if self.optional and value == "none":
            return None
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{wrong}{nearest(str(value), self.choices)}")
            return value
        if self.kind is Path:
            return Path(str(value)).expanduser()
        if self.kind is bool:
            truth = _TRUTHS.get(str(value).lower())
            if truth is None:
                raise wrong
            return truth
        if self.kind is str:
            if not isinstance(value, str):
                raise wrong
            return value
        number = _number(value)
        whole = self.kind is int
        if number is None or (whole and number != int(number)) or (self.low is not None and number < self.low):
            raise wrong
        return int(number) if whole else number

    def _expectation(self) -> str:
        if self.choices:
            return f"give one of {', '.join(self.choices)}"
        return f"give {_KINDS[self.kind]}" + (f" of at least {self.low:g}" if self.low is not None else "")


def nearest(word: str, valid: Iterable[str]) -> str:
    """A "; did you mean ...?" for error messages, empty when nothing is near."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _number(value: object) -> float | None:
    """A finite number from a number or from text such as "4096", "16k", "1.5M", "4GiB"; None if it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip().lower().replace("_", "").removesuffix("ib")
        factor = {"k": 2**10, "m": 2**20, "g": 2**30}.get(text[-1:], 1)
        try:
            value = float(text[:-1] if factor > 1 else text) * factor
        except ValueError:
            return None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
