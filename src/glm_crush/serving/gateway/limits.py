"""What a limit is, and the counters of one process.

Above: `admission.py`. Beside: `redis_limits.py`, the same for several servers. Three kinds cover every limit: a *rate*
is a bucket that holds a minute's worth and refills evenly (no window whose edge lets twice as much through), *slots*
are held and given back, a *budget* is a sum that starts again with the day or month. Tokens are charged before they are
known, by an upper bound, and what was not used is given back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = ["Charge", "LimitReached", "LimitState", "LimitStore", "LocalLimits", "shortfall"]

SECONDS_PER_RATE = 60.0


class Charge(NamedTuple):
    """One counter to charge.

    Attributes:
        name: of the limit, as settings and messages call it. kind: see above. limit: largest level. cost: what to take;
            negative gives back. window: of a budget, the day or month it belongs to, such as 2026-11-22.
        window_seconds: of a budget, until its window ends.
    """

    name: str
    kind: Literal["rate", "slots", "budget"]
    limit: int
    cost: int
    window: str = ""
    window_seconds: float = 0.0


class LimitState(NamedTuple):
    """A limit after a charge: what is left of it, and the seconds until it is whole again."""

    name: str
    limit: int
    remaining: int
    reset_seconds: float


class LimitReached(Exception):  # noqa: N818 (an outcome, turned into an error of ours by admission)
    """A charge that does not fit; nothing was taken.

    Attributes:
        charge: the first that did not fit. used: what was in use. retry_after_seconds: until it fits; None = never.
        state: of that limit now.
    """

    def __init__(self, charge: Charge, used: int, retry_after_seconds: float | None, state: LimitState) -> None:
        super().__init__(charge.name)
        self.charge = charge
        self.used = used
        self.retry_after_seconds = retry_after_seconds
        self.state = state


class LimitStore(Protocol):
    """Where counters are kept."""

    async def take(self, owner: str, charges: Sequence[Charge]) -> list[LimitState]:
        """Charge all counters of one owner, or none.

        Raises:
            LimitReached: one of them does not fit.
            OverloadedError: the counters cannot be reached now.
        """
        ...

    def settle(self, owner: str, charges: Sequence[Charge]) -> None:
        """Correct counters by what was really used, up or down; never refuses and never waits."""
        ...

    async def close(self) -> None:
        """Finish what `settle` began."""
        ...


def shortfall(charge: Charge, level: float) -> tuple[bool, float | None, LimitState]:
    """Whether a charge fits when `level` is used, when it would, and the state after it, or now if it does not."""
    fits = level + charge.cost <= charge.limit
    after = level + charge.cost if fits else level
    left = max(0, math.floor(charge.limit - after))
    if charge.kind == "rate":
        per_second = charge.limit / SECONDS_PER_RATE
        wait = (level + charge.cost - charge.limit) / per_second
        reset = max(0.0, after) / per_second
    else:
        wait = 1.0 if charge.kind == "slots" else charge.window_seconds
        reset = 0.0 if charge.kind == "slots" else charge.window_seconds
    never = charge.cost > charge.limit
    return fits, None if never else wait, LimitState(charge.name, charge.limit, left, reset)


@dataclass(slots=True)
class _Counter:
    """`level` is what is used: of a rate, what has not drained yet; it may be above the limit after a settlement."""

    level: float = 0.0
    stamp: float = 0.0
    window: str = ""

    def advance(self, charge: Charge, now: float) -> None:
        if charge.kind == "rate":
            self.level = max(0.0, self.level - (now - self.stamp) * charge.limit / SECONDS_PER_RATE)
            self.stamp = now
        elif charge.window > self.window:
            self.level, self.window = 0.0, charge.window


class LocalLimits:
    """The counters of this process; gone when it ends, but for budgets, which begin with what was used before.

    Args:
        clock: seconds, monotonic.
        spent: what an owner had used of a budget before this process: (owner, name, window) -> amount.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[str, str, str], int] = lambda _owner, _name, _window: 0,
    ) -> None:
        self._clock = clock
        self._spent = spent
        self._counters: dict[tuple[str, str], _Counter] = {}

    async def take(self, owner: str, charges: Sequence[Charge]) -> list[LimitState]:
        """See `LimitStore.take`."""
        now = self._clock()
        counters = [self._counter(owner, charge, now) for charge in charges]
        states = []
        for charge, counter in zip(charges, counters, strict=True):
            fits, wait, state = shortfall(charge, counter.level)
            if not fits:
                raise LimitReached(charge, math.ceil(counter.level), wait, state)
            states.append(state)
        for charge, counter in zip(charges, counters, strict=True):
            counter.level += charge.cost
        return states

    def settle(self, owner: str, charges: Sequence[Charge]) -> None:
        """See `LimitStore.settle`."""
        now = self._clock()
        for charge in charges:
            counter = self._counter(owner, charge, now)
            if counter.window > charge.window:
                continue  # of a day or month that is over
            counter.level = max(0.0, counter.level + charge.cost)

    async def close(self) -> None:
        """Nothing is pending."""

    def _counter(self, owner: str, charge: Charge, now: float) -> _Counter:
        counter = self._counters.get((owner, charge.name))
        if counter is None:
            counter = self._counters[owner, charge.name] = _Counter(stamp=now, window=charge.window)
            if charge.kind == "budget":
                counter.level = self._spent(owner, charge.name, charge.window)
        counter.advance(charge, now)
        return counter
