"""What a suite reports: checks that passed, failed, or do not apply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["OUTCOMES", "Check", "SuiteReport", "read_checks"]

Outcome = Literal["passed", "failed", "not applicable"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Check:
    """One sentence about the server and whether it holds; `reason` says why not, or why it does not apply."""

    sentence: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class SuiteReport:
    """All checks of one suite, and which version of it was run."""

    name: str
    version: str
    subject: str
    checks: Sequence[Check]

    def count(self, outcome: Outcome) -> int:
        """How many checks came out so."""
        return sum(check.outcome == outcome for check in self.checks)


def read_checks(lines: Iterable[str]) -> list[Check]:
    """The checks that a client's script printed, one JSON object a line; other lines are the client's own noise."""
    checks = []
    for line in lines:
        if line.startswith('{"check"'):
            fields = json.loads(line)
            checks.append(Check(fields["check"], fields["outcome"], fields.get("reason", "")))
    return checks
