"""Rules that judge a text as a whole: its length, its form, what it is about.

Above: policies. Below: nothing. In replies they need the end, so one that blocks holds a stream back until then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.rule import Direction

__all__ = ["ALL_ROLES", "STRANGERS", "InjectionCheck", "JsonCheck", "LengthCheck", "TextCheck"]


class TextCheck(Protocol):
    """Judges whole texts.

    Attributes:
        name: what policies call it. directions: where it makes sense.
        roles: of the messages that it judges, in requests.
        problem: why it cannot judge here; None = it can.
        reads_all: of replies, also reasoning and arguments of calls; otherwise the content alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def directions(self) -> tuple[Direction, ...]: ...

    @property
    def roles(self) -> frozenset[str]: ...

    @property
    def reads_all(self) -> bool: ...

    @property
    def problem(self) -> str | None: ...

    async def applies(self, text: str, direction: Direction, /) -> bool:
        """Whether there is something to do about the text.

        Raises:
            OverloadedError, EngineError: a model that judges cannot answer now.
        """
        ...


STRANGERS = frozenset({"user", "tool"})
ALL_ROLES = frozenset({"user", "tool", "system", "assistant"})


@dataclass(frozen=True)
class InjectionCheck:
    """Attempts to talk the model out of its instructions, in what users and tools say."""

    injections: Injections
    threshold: float
    name: str = "injection"
    directions: tuple[Direction, ...] = ("input",)
    roles: frozenset[str] = STRANGERS
    reads_all: bool = True
    problem: str | None = None

    async def applies(self, text: str, _: Direction) -> bool:
        """See `TextCheck`."""
        return self.injections.score(text).score >= self.threshold


@dataclass(frozen=True)
class LengthCheck:
    """Texts longer than the settings allow; in requests each message is one."""

    most_input: int | None
    most_output: int | None
    name: str = "length"
    directions: tuple[Direction, ...] = ("input", "output")
    roles: frozenset[str] = ALL_ROLES
    reads_all: bool = True
    problem: str | None = None

    async def applies(self, text: str, direction: Direction) -> bool:
        """See `TextCheck`."""
        most = self.most_input if direction == "input" else self.most_output
        return most is not None and len(text) > most


@dataclass(frozen=True)
class JsonCheck:
    """Replies that are no JSON."""

    name: str = "json"
    directions: tuple[Direction, ...] = ("output",)
    roles: frozenset[str] = frozenset()
    reads_all: bool = False
    problem: str | None = None

    async def applies(self, text: str, _: Direction) -> bool:
        """See `TextCheck`."""
        try:
            json.loads(text)
        except ValueError:
            return True
        except RecursionError:
            return True
        return False
