"""Counters: rates drain, slots come back, budgets begin again; all or nothing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.serving.gateway.limits import Charge, LimitReached, LimitState, LocalLimits

pytestmark = pytest.mark.requirement("S6")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rate(cost: int, limit: int = 60) -> Charge:
    return Charge("requests_per_minute", "rate", limit, cost)


def slots(cost: int = 1, limit: int = 2) -> Charge:
    return Charge("concurrency", "slots", limit, cost)


def budget(cost: int, window: str = "2026-11-22", limit: int = 100) -> Charge:
    return Charge("tokens_per_day", "budget", limit, cost, window, 3600.0)


def take(limits: LocalLimits, *charges: Charge, owner: str = "key_a") -> list[LimitState]:
    return asyncio.run(limits.take(owner, charges))


def test_a_rate_refills_evenly() -> None:
    clock = Clock()
    limits = LocalLimits(clock)
    assert take(limits, rate(60)) == [LimitState("requests_per_minute", 60, 0, 60.0)]
    with pytest.raises(LimitReached) as reached:
        take(limits, rate(3))
    assert reached.value.retry_after_seconds == 3.0
    clock.now += 3.0
    assert take(limits, rate(3)) == [LimitState("requests_per_minute", 60, 0, 60.0)]


def test_no_window_has_an_edge_at_which_twice_as_much_goes_through() -> None:
    clock = Clock()
    limits = LocalLimits(clock)
    taken = 0
    for _ in range(120):
        clock.now += 0.5
        try:
            take(limits, rate(1, limit=6))
            taken += 1
        except LimitReached:
            continue
    assert taken == 11  # a full bucket, and what comes back between the first and the last


def test_what_can_never_fit_says_so() -> None:
    with pytest.raises(LimitReached) as reached:
        take(LocalLimits(Clock()), rate(61))
    assert reached.value.retry_after_seconds is None


def test_slots_are_given_back_by_settling() -> None:
    limits = LocalLimits(Clock())
    take(limits, slots())
    take(limits, slots())
    with pytest.raises(LimitReached):
        take(limits, slots())
    limits.settle("key_a", [slots(-1)])
    take(limits, slots())


def test_a_budget_begins_again_with_its_window() -> None:
    limits = LocalLimits(Clock())
    take(limits, budget(100))
    with pytest.raises(LimitReached) as reached:
        take(limits, budget(1))
    assert reached.value.retry_after_seconds == 3600.0
    assert take(limits, budget(1, "2026-11-23")) == [LimitState("tokens_per_day", 100, 99, 3600.0)]


def test_a_settlement_of_yesterday_leaves_todays_budget_alone() -> None:
    limits = LocalLimits(Clock())
    take(limits, budget(50, "2026-11-22"))
    take(limits, budget(50, "2026-11-23"))
    limits.settle("key_a", [budget(-50, "2026-11-22")])
    with pytest.raises(LimitReached):
        take(limits, budget(51, "2026-11-23"))


def test_a_budget_begins_with_what_was_spent_before_this_process() -> None:
    limits = LocalLimits(Clock(), spent=lambda owner, name, window: 90 if window == "2026-11-22" else 0)
    with pytest.raises(LimitReached) as reached:
        take(limits, budget(11))
    assert reached.value.used == 90


def test_a_refused_request_takes_nothing_of_any_counter() -> None:
    limits = LocalLimits(Clock())
    with pytest.raises(LimitReached):
        take(limits, rate(1), budget(101))
    assert take(limits, rate(60))[0].remaining == 0


def test_keys_do_not_share_counters() -> None:
    limits = LocalLimits(Clock())
    take(limits, rate(60), owner="key_a")
    take(limits, rate(60), owner="key_b")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.floats(0, 30)), max_size=30))
def test_reserving_much_and_giving_back_the_rest_never_lets_more_through_than_the_rate(
    steps: list[tuple[int, int, float]],
) -> None:
    clock = Clock()
    limits = LocalLimits(clock)
    used = 0
    for actual, extra, pause in steps:
        clock.now += pause
        try:
            take(limits, rate(min(60, actual + extra)))
        except LimitReached:
            continue
        limits.settle("key_a", [rate(actual - min(60, actual + extra))])
        used += actual
    assert used <= 60 + (clock.now - 100.0) * 1.0 + 1e-6
