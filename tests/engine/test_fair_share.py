"""Tenants that want more than there is get shares by weight; nobody is held back while others want nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.fair_share import FairShare, tenant_weights
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import Scheduler
from glm_crush.errors import ConfigError
from glm_crush.types import SamplingParams
from tests.engine.scripted import make_limits

pytestmark = pytest.mark.requirement("E4")


def make_scheduler(weights: dict[str, float] | None = None, **limits: int) -> Scheduler:
    limits = {"max_num_seqs": 2, "max_queue_size": 1000, **limits}
    return Scheduler(make_limits(**limits), BlockPool(64, 4), fair_share=FairShare(weights))


def add(
    scheduler: Scheduler, tenant: str, *names: str, prompt: int = 4, max_tokens: int = 4, priority: int = 0
) -> None:
    for name in names:
        request = Request(
            name, range(prompt), SamplingParams(), max_tokens=max_tokens, priority=priority, tenant=tenant
        )
        scheduler.add([request])


def run_steps(scheduler: Scheduler, num_steps: int = 10_000) -> list[str]:
    """Step until nothing is left; the names in the order in which they started."""
    started: list[str] = []
    for _ in range(num_steps):
        if not scheduler.has_unfinished:
            break
        batch = scheduler.schedule()
        started += [part.request.request_id for part in batch.requests if part.start == 0]
        scheduler.update(batch)
        for part in batch.requests:
            if part.samples:
                part.request.token_ids.append(7)
                if part.request.num_output_tokens == part.request.max_tokens:
                    scheduler.finish(part.request, "length")
        scheduler.check_integrity()
    return started


def test_a_tenant_with_a_long_queue_does_not_make_the_others_wait_behind_it():
    scheduler = make_scheduler(max_num_seqs=1)
    add(scheduler, "a", "a1", "a2", "a3", "a4")
    add(scheduler, "b", "b1", "b2")
    assert run_steps(scheduler) == ["a1", "b1", "a2", "b2", "a3", "a4"]


def test_requests_of_one_tenant_go_in_order_of_arrival():
    scheduler = make_scheduler()
    add(scheduler, "a", *"123456789")
    assert run_steps(scheduler) == list("123456789")


def test_who_asks_for_longer_replies_gets_fewer_of_them():
    """Costs are 4 + 2 x 2 = 8 and 4 + 2 x 10 = 24: for one of b's come three of a's."""
    scheduler = make_scheduler(max_num_seqs=1)
    add(scheduler, "a", *(f"a{number}" for number in range(12)), max_tokens=2)
    add(scheduler, "b", *(f"b{number}" for number in range(12)), max_tokens=10)
    assert Counter(name[0] for name in run_steps(scheduler)[:12]) == {"a": 9, "b": 3}


def test_a_tenant_of_weight_three_gets_three_times_as_much():
    scheduler = make_scheduler({"a": 3.0}, max_num_seqs=1)
    for tenant in "ab":
        add(scheduler, tenant, *(f"{tenant}{number}" for number in range(20)))
    assert Counter(name[0] for name in run_steps(scheduler)[:16]) == {"a": 12, "b": 4}


def test_a_tenant_that_comes_late_has_no_claim_on_the_time_before():
    scheduler = make_scheduler(max_num_seqs=1)
    add(scheduler, "a", *(f"a{number}" for number in range(30)))
    add(scheduler, "x", "x")  # so that there is somebody to share with
    run_steps(scheduler, 40)
    add(scheduler, "b", *(f"b{number}" for number in range(10)))
    assert Counter(name[0] for name in run_steps(scheduler)[:7]) == {"a": 4, "b": 3}


def test_priority_goes_before_fairness():
    scheduler = make_scheduler(max_num_seqs=1)
    add(scheduler, "a", "a1", "a2")
    add(scheduler, "b", "b1", priority=1)
    add(scheduler, "a", "a0", priority=-1)
    assert run_steps(scheduler) == ["a0", "a1", "a2", "b1"]


def test_counters_of_tenants_that_are_gone_are_forgotten():
    fair_share = FairShare()
    for number in range(5000):
        request = Request(f"{number}", [1], SamplingParams(), max_tokens=1, tenant=f"t{number}")
        request.arrival = number
        fair_share.enter(request)
        fair_share.leave(request)
    assert len(fair_share._counters) <= 1025


def test_weights_are_read_from_the_setting():
    assert tenant_weights("search=4, batch = 0.5") == {"search": 4.0, "batch": 0.5}
    assert tenant_weights(None) == {}


@pytest.mark.parametrize("text", ["search", "search=", "=2", "search=0", "search=-1", "search=inf", "search=many"])
def test_a_weight_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match="tenant_weights holds"):
        tenant_weights(text)
