"""The rules of which models are in memory: never over the budget, never under a request, the oldest first."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from glm_crush.errors import ModelTooLargeError, OverloadedError
from glm_crush.serving.model_pool.residency import Residency, Slot

pytestmark = pytest.mark.requirement("M8")


def loaded(residency: Residency, name: str, num_bytes: int, now: float = 0.0, *, pinned: bool = False) -> Slot:
    slot = residency.open(name, now, pinned=pinned)
    assert residency.claim(slot, num_bytes) == []
    assert residency.start_waiting() == [slot]
    residency.loaded(slot, now)
    return slot


def names(slots: list[Slot]) -> list[str]:
    return [slot.name for slot in slots]


def test_the_least_recently_used_go_first_and_no_more_than_must() -> None:
    residency = Residency(10)
    slots = {name: loaded(residency, name, 3, now) for now, name in enumerate("abc")}
    residency.take(slots["a"], 5)
    residency.let_go(slots["a"], 6)
    assert names(residency.claim(residency.open("d", 7), 4)) == ["b"]
    assert names(residency.claim(residency.open("e", 7), 6)) == ["c", "a"]


def test_a_model_in_use_or_pinned_is_not_evicted_and_the_refusal_has_the_numbers() -> None:
    residency = Residency(10 * 2**20)
    used = loaded(residency, "used", 3 * 2**20)
    loaded(residency, "pinned", 3 * 2**20, pinned=True)
    loaded(residency, "idle", 2 * 2**20)
    residency.take(used, 1)
    with pytest.raises(
        OverloadedError, match=r"big takes 7 MiB and 3 MiB of the 10 MiB .* used \(3 MiB\), pinned \(3"
    ) as error:
        residency.claim(residency.open("big", 1), 7 * 2**20)
    assert error.value.retry_after_seconds == 2.0
    assert residency.get("idle") is not None  # nothing went in vain


def test_what_could_never_fit_is_refused_whatever_is_loaded() -> None:
    residency = Residency(10 * 2**20)
    loaded(residency, "pinned", 4 * 2**20, pinned=True)
    with pytest.raises(ModelTooLargeError, match="big takes 7 MiB; all models together may take 10 MiB, and 4 MiB"):
        residency.claim(residency.open("big", 1), 7 * 2**20)
    assert residency.limit_bytes("big") == 6 * 2**20


def test_a_load_waits_until_those_that_go_for_it_have_gone() -> None:
    residency = Residency(10)
    old = loaded(residency, "old", 8)
    new = residency.open("new", 1)
    assert residency.claim(new, 8) == [old]
    assert residency.start_waiting() == []
    residency.forget(old)
    assert residency.start_waiting() == [new]


def test_room_that_was_promised_is_not_given_to_another() -> None:
    residency = Residency(10)
    old = loaded(residency, "old", 8)
    residency.claim(residency.open("first", 1), 8)
    with pytest.raises(OverloadedError):
        residency.claim(residency.open("second", 1), 8)
    residency.forget(old)
    assert names(residency.start_waiting()) == ["first"]


def test_an_idle_model_goes_when_its_time_has_come_and_a_use_begins_it_anew() -> None:
    residency = Residency(None, 60.0)
    slot = loaded(residency, "a", 1, 0.0)
    assert residency.next_expiry() == 60.0
    residency.take(slot, 50.0)
    assert residency.next_expiry() is None
    assert residency.expired(100.0) == []
    residency.let_go(slot, 110.0)
    assert residency.expired(169.9) == []
    assert names(residency.expired(170.0)) == ["a"]


def test_keep_alive_of_nothing_closes_it_with_its_last_user_and_of_for_ever_never() -> None:
    residency = Residency(None, 60.0)
    short, ever = loaded(residency, "short", 1), loaded(residency, "ever", 1)
    residency.take(short, 1.0)
    assert not residency.keep_alive(short, 0.0, 1.0)
    assert residency.let_go(short, 2.0)
    assert short.state == "closing"
    residency.keep_alive(ever, math.inf, 1.0)
    assert residency.next_expiry() is None


def test_a_dismissed_model_takes_no_new_users_and_goes_with_its_last() -> None:
    residency = Residency(10)
    slot = loaded(residency, "a", 6, pinned=True)
    residency.take(slot, 1.0)
    assert not residency.dismiss(slot, 2.0)
    assert residency.get("a") is None
    with pytest.raises(OverloadedError):  # a new stay beside it has no room yet
        residency.claim(residency.open("a", 2.0), 6)
    assert residency.let_go(slot, 3.0)


class ResidencyMachine(RuleBasedStateMachine):
    """A server's day: requests, loads that succeed and fail, ends, operators, time."""

    opened: Bundle[Slot] = Bundle("opened")
    leases: Bundle[Slot] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.residency = Residency(20, 10.0)
        self.users: dict[Slot, int] = {}

    @rule(target=leases, name=st.sampled_from("abcdef"), num_bytes=st.integers(1, 22), pinned=st.booleans())
    def ask(self, name: str, num_bytes: int, pinned: bool) -> Slot:
        """A request: for what is there, what is on its way, or what must be loaded."""
        slot = self.residency.get(name)
        new = slot is None
        slot = slot or self.residency.open(name, self.now, pinned=pinned)
        assert self.residency.get(name) is slot, "a model is loaded once, whoever asks"
        self.residency.take(slot, self.now)
        self.users[slot] = self.users.get(slot, 0) + 1
        if new:
            self.claim(slot, num_bytes)
        return slot

    def claim(self, slot: Slot, num_bytes: int) -> None:
        idle = [
            s for s in self.residency if s.state == "loaded" and not s.pinned and not s.num_users and not s.is_leaving
        ]
        free = 20 - self.residency.promised_bytes
        try:
            victims = self.residency.claim(slot, num_bytes)
        except ModelTooLargeError:
            assert num_bytes > 20 - self.residency.pinned_bytes(but=slot)
            self.forget(slot)
        except OverloadedError:
            assert num_bytes > free + sum(other.num_bytes for other in idle)
            self.forget(slot)
        else:
            kept = [other for other in idle if other not in victims]
            assert all(old.last_used <= new.last_used for old in victims for new in kept)
            assert all(not self.users.get(victim) for victim in victims)
            assert not victims or num_bytes > free + sum(victim.num_bytes for victim in victims[:-1])

    def forget(self, slot: Slot) -> None:
        self.residency.forget(slot)
        self.users.pop(slot, None)

    @rule(slot=consumes(leases))
    def let_go(self, slot: Slot) -> None:
        if slot.state != "gone":
            self.users[slot] -= 1
            self.residency.let_go(slot, self.now)

    @rule()
    def start(self) -> None:
        for slot in self.residency.start_waiting():
            assert slot.state == "loading"

    @precondition(lambda self: any(slot.state == "loading" for slot in self.residency))
    @rule(data=st.data(), succeeds=st.booleans())
    def end_a_load(self, data: st.DataObject, succeeds: bool) -> None:
        slot = data.draw(st.sampled_from([slot for slot in self.residency if slot.state == "loading"]))
        if succeeds:
            self.residency.loaded(slot, self.now)
        else:
            self.forget(slot)

    @precondition(lambda self: any(slot.state == "closing" for slot in self.residency))
    @rule(data=st.data())
    def end_a_model(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot in self.residency if slot.state == "closing"]))
        assert not self.users.get(slot), "closed under a request"
        self.forget(slot)

    @rule(name=st.sampled_from("abcdef"), pinned=st.booleans())
    def pin(self, name: str, pinned: bool) -> None:
        slot = self.residency.get(name)
        if slot is not None:
            self.residency.pin(slot, pinned, self.now)

    @rule(name=st.sampled_from("abcdef"), ttl=st.sampled_from((0.0, 5.0, math.inf)))
    def keep_alive(self, name: str, ttl: float) -> None:
        slot = self.residency.get(name)
        if slot is not None:
            self.residency.keep_alive(slot, ttl, self.now)

    @rule(name=st.sampled_from("abcdef"))
    def dismiss(self, name: str) -> None:
        slot = self.residency.get(name)
        if slot is not None:
            self.residency.dismiss(slot, self.now)

    @rule(seconds=st.floats(0.1, 20.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for slot in self.residency.expired(self.now):
            assert not slot.pinned
            assert not self.users.get(slot)

    @invariant()
    def rules_hold(self) -> None:
        self.residency.check_integrity()
        for slot, count in self.users.items():
            assert slot.num_users == count

    def teardown(self) -> None:
        """Whatever was promised comes: once all that goes has gone, nobody waits."""
        for slot in self.residency:
            if slot.state == "closing":
                self.forget(slot)
        self.residency.start_waiting()
        assert not [slot for slot in self.residency if slot.state == "waiting"]


TestResidencyMachine = ResidencyMachine.TestCase
TestResidencyMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
