"""From a key's limits to charges on counters, and from token counts to money.

Above: `admission.py`. Below: `limits.py`. All amounts are integers: tokens, requests, and millionths of the unit of
money, so that nothing is lost by adding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from glm_crush.serving.gateway.limits import Charge
from glm_crush.serving.gateway.records import KeyLimits
from glm_crush.types import Usage

__all__ = ["MONEY_UNIT", "Meter", "Prices", "budget_windows"]

MONEY_UNIT = 1_000_000
_PER_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money per 1,000 tokens; zero = tokens are free."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, usage: Usage) -> int:
        """Millionths of the unit of money, rounded up."""
        exact = (self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens) / _PER_TOKENS
        return math.ceil(round(exact * MONEY_UNIT, 3))


def budget_windows(now: datetime) -> dict[str, tuple[str, float]]:
    """The day and the month of a time in UTC, each with the seconds until it ends."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first_of_next = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return {
        "day": (f"{now:%Y-%m-%d}", (midnight + timedelta(days=1) - now).total_seconds()),
        "month": (f"{now:%Y-%m}", (first_of_next - now).total_seconds()),
    }


class Meter:
    """Makes the charges of requests and of tokens.

    Args:
        prices: of tokens.
        today: the time in UTC.
    """

    def __init__(self, prices: Prices, today: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.prices = prices
        self._today = today

    def request_charges(self, limits: KeyLimits) -> list[Charge]:
        """Of one request."""
        charges = []
        if limits.requests_per_minute is not None:
            charges.append(Charge("requests_per_minute", "rate", limits.requests_per_minute, 1))
        if limits.concurrency is not None:
            charges.append(Charge("concurrency", "slots", limits.concurrency, 1))
        return charges

    def token_charges(self, limits: KeyLimits, usage: Usage) -> list[Charge]:
        """Of so many tokens."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        charges = []
        if limits.tokens_per_minute is not None:
            charges.append(Charge("tokens_per_minute", "rate", limits.tokens_per_minute, tokens))
        charges += self._budget_charges(limits, tokens, self.prices.cost(usage))
        return charges

    def _budget_charges(self, limits: KeyLimits, tokens: int, money: int) -> Iterator[Charge]:
        budgets = (
            ("tokens_per_day", limits.tokens_per_day, "day", tokens),
            ("tokens_per_month", limits.tokens_per_month, "month", tokens),
            ("money_per_day", _millionths(limits.money_per_day), "day", money),
            ("money_per_month", _millionths(limits.money_per_month), "month", money),
        )
        if all(limit is None for _, limit, _, _ in budgets):
            return
        windows = budget_windows(self._today())
        for name, limit, period, cost in budgets:
            if limit is not None:
                window, seconds = windows[period]
                yield Charge(name, "budget", limit, cost, window, seconds)


def _millionths(money: float | None) -> int | None:
    return None if money is None else round(money * MONEY_UNIT)
