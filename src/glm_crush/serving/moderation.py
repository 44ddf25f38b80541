"""What judges texts, whatever it is: a chain of rules, a guard model, a remote service.

Above: the route of moderations, and filters of replies. Below: nothing. The route is announced only where there is a
moderator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Judgement", "Moderator"]


@dataclass(frozen=True)
class Judgement:
    """What a moderator found in one text.

    Attributes:
        scores: by category, in [0, 1]; categories that it does not judge are left out.
        flagged: the categories that apply.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    flagged: frozenset[str] = frozenset()


class Moderator(Protocol):
    """Judges texts."""

    @property
    def name(self) -> str:
        """What clients call it, and what a reply says it was."""
        ...

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        """One judgement for each text, in their order.

        Raises:
            OverloadedError, EngineError: it cannot judge now.
        """
        ...
