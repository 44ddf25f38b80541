"""What is written down of each request, gathered in memory and handed on in batches.

Above: `admission.py`, on the hot path, where an entry costs an append. Below: the writer that makes rows of it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from glm_crush.errors import OverloadedError
from glm_crush.types import Usage

__all__ = ["AuditEntry", "Ledger", "UsageCell", "UsageSum"]

_MOST_PENDING = 200_000


class AuditEntry(NamedTuple):
    """One request: who, what, how it ended. No text of prompts or replies, and no key.

    Attributes:
        time: seconds since 1970. key_id: None when there was none. route: method and path, without the query. model:
            None when it did not come to that. status: of the reply. duration_ms: until its end. guard: what its rules
        found how often, and what was done about it; None = nothing.
    """

    time: float
    request_id: str
    tenant: str | None
    key_id: str | None
    address: str | None
    route: str
    model: str | None
    status: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    duration_ms: int
    guard: str | None = None


class UsageCell(NamedTuple):
    """What usage is summed by; `day` is the date in UTC."""

    key_id: str
    model: str
    day: str


class UsageSum:
    """A sum over requests; money in millionths."""

    __slots__ = ("cached_tokens", "completion_tokens", "money", "prompt_tokens", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt_tokens = self.completion_tokens = self.cached_tokens = self.money = 0

    def add(self, usage: Usage, money: int) -> None:
        """One more generation."""
        self.requests += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.money += money


class Ledger:
    """Entries that are not yet rows. Used in the event loop only."""

    def __init__(self, most_pending: int = _MOST_PENDING) -> None:
        self._most_pending = most_pending
        self._entries: list[AuditEntry] = []
        self._usage: defaultdict[UsageCell, UsageSum] = defaultdict(UsageSum)

    def check_room(self) -> None:
        """Refuse work of which no record could be kept.

        Raises:
            OverloadedError: the database has not taken entries for long.
        """
        if len(self._entries) >= self._most_pending:
            raise OverloadedError(
                f"{self._most_pending} entries of the audit log wait for the database; try again later",
                retry_after_seconds=5.0,
            )

    def record(self, entry: AuditEntry) -> None:
        """Note one request."""
        self._entries.append(entry)

    def use(self, cell: UsageCell, usage: Usage, money: int) -> None:
        """Note tokens of a key."""
        self._usage[cell].add(usage, money)

    @property
    def is_empty(self) -> bool:
        return not self._entries and not self._usage

    def drain(self) -> tuple[list[AuditEntry], dict[UsageCell, UsageSum]]:
        """Everything noted since the last call."""
        entries, usage = self._entries, dict(self._usage)
        self._entries, self._usage = [], defaultdict(UsageSum)
        return entries, usage

    def put_back(self, entries: list[AuditEntry], usage: dict[UsageCell, UsageSum]) -> None:
        """What could not be written, for the next attempt."""
        self._entries = entries + self._entries
        for cell, earlier in usage.items():
            later = self._usage.get(cell)
            if later is not None:
                for name in UsageSum.__slots__:
                    setattr(earlier, name, getattr(earlier, name) + getattr(later, name))
            self._usage[cell] = earlier
