"""What all admissions share: counters, prices, the ledger, the time.

Above: `admission.py`. Below: `limits.py`, `meter.py`, `ledger.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from glm_crush.serving.gateway.ledger import Ledger
from glm_crush.serving.gateway.limits import LimitStore
from glm_crush.serving.gateway.meter import Meter
from glm_crush.serving.gateway.records import Grant

__all__ = ["AuditScope", "Books"]

AuditScope = Literal["keys", "all", "off"]


@dataclass(frozen=True, kw_only=True)
class Books:
    """The shared parts of admissions.

    Attributes:
        limits: the counters. meter: makes charges. ledger: takes entries.
        audit: which requests are written down: those with a key, all, none.
        isolates_tenants: whether tenants' prefixes are kept apart in the engine's cache.
        unlimited_reply_tokens: reserved for a reply to which its request sets no limit.
        now: seconds since 1970.
    """

    limits: LimitStore
    meter: Meter
    ledger: Ledger = field(default_factory=Ledger)
    audit: AuditScope = "keys"
    isolates_tenants: bool = False
    unlimited_reply_tokens: int = 256
    now: Callable[[], float] = time.time

    def day(self) -> str:
        """Today's date in UTC."""
        return f"{datetime.fromtimestamp(self.now(), UTC):%Y-%m-%d}"

    def audits(self, grant: Grant) -> bool:
        """Whether requests under a grant are written down."""
        return self.audit == "all" or (self.audit == "keys" and grant.key_id is not None)
