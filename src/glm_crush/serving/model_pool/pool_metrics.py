"""What a pool has done since its start, for those who watch it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CloseReason", "PoolMetrics"]

CloseReason = Literal["memory", "idle", "unloaded", "removed"]


@dataclass(frozen=True)
class PoolMetrics:
    """Counters by name of the model.

    Attributes:
        loads: that have succeeded. failures: that have not. load_seconds: of those that have.
        closed: by name and reason: room was needed, it was idle, an operator asked, it is served no more.
    """

    loads: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    load_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    closed: Counter[tuple[str, CloseReason]] = field(default_factory=Counter)
