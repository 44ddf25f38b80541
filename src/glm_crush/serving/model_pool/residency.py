"""Which models may be in memory: room for a new one, who must go for it, who has been idle for too long.

Above: `pool`, which loads and closes what is decided here. Pure policy: it is told the time and knows neither models
nor threads nor event loops, so a test can replay any day of a server in milliseconds.

    preparing ──claim──> waiting ──start_waiting──> loading ──loaded──> loaded ──> closing ──forget──> (gone)

Two sums are kept to the budget, always:

    promised   waiting + loading + loaded                what will be there once those that go have gone
    in memory            loading + loaded + closing      what is there now

So a load that was promised room by an eviction never has to be refused later: it waits until the evicted have gone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from glm_crush.errors import ModelTooLargeError, OverloadedError

__all__ = ["Residency", "Slot", "SlotState", "mebibytes"]

SlotState = Literal["preparing", "waiting", "loading", "loaded", "closing", "gone"]

_RETRY_SECONDS = 2.0  # a reply may end at any moment


@dataclass(eq=False, kw_only=True)
class Slot:
    """One stay of one model; owned and changed by `Residency` alone.

    Attributes:
        num_bytes: 0 until it is known. num_users: requests that hold it; it is not evicted before they let go.
        pinned: stays until it is told to go. ttl_seconds: how long it stays idle; infinite = until room is needed.
        is_leaving: takes no new users, and goes with the last one it has.
        last_used: when it was last taken or let go. expires_at: when it goes if nobody takes it; None = not now.
    """

    name: str
    pinned: bool
    ttl_seconds: float
    num_bytes: int = 0
    state: SlotState = "preparing"
    num_users: int = 0
    is_leaving: bool = False
    last_used: float = 0.0
    expires_at: float | None = None


class Residency:
    """The slots of one server.

    Args:
        budget_bytes: what all models may take together; None = no limit.
        ttl_seconds: how long models stay idle that nobody says anything of; infinite = for ever.
    """

    def __init__(self, budget_bytes: int | None = None, ttl_seconds: float = math.inf) -> None:
        self.budget_bytes = budget_bytes
        self.ttl_seconds = ttl_seconds
        self._current: dict[str, Slot] = {}  # those that may be taken
        self._slots: dict[Slot, None] = {}  # all that are not gone, in the order in which they came
        self._waiting: deque[Slot] = deque()

    def __iter__(self) -> Iterator[Slot]:
        """All slots that are not gone."""
        return iter(list(self._slots))

    def get(self, name: str) -> Slot | None:
        """The slot that requests for this model share now; None = it is neither loaded nor being loaded."""
        return self._current.get(name)

    @property
    def used_bytes(self) -> int:
        """In memory now."""
        return sum(slot.num_bytes for slot in self._slots if slot.state in ("loading", "loaded", "closing"))

    @property
    def promised_bytes(self) -> int:
        """In memory once those that go have gone."""
        return sum(slot.num_bytes for slot in self._slots if slot.state in ("waiting", "loading", "loaded"))

    def pinned_bytes(self, *, but: Slot | None = None) -> int:
        """What no eviction can free."""
        return sum(slot.num_bytes for slot in self._slots if slot.pinned and slot is not but)

    def limit_bytes(self, name: str) -> int | None:
        """The most that this model may ever take beside those that are pinned; None = no limit."""
        if self.budget_bytes is None:
            return None
        return max(0, self.budget_bytes - self.pinned_bytes(but=self._current.get(name)))

    def open(self, name: str, now: float, *, pinned: bool = False, ttl_seconds: float | None = None) -> Slot:
        """A new stay, whose size is not known yet."""
        assert name not in self._current, name
        ttl = self.ttl_seconds if ttl_seconds is None else ttl_seconds
        slot = Slot(name=name, pinned=pinned, ttl_seconds=ttl, last_used=now)
        self._current[name] = slot
        self._slots[slot] = None
        return slot

    def claim(self, slot: Slot, num_bytes: int) -> list[Slot]:
        """Promise room; it may be loaded once `start_waiting` says so.

        Returns: those that must go for it, least recently used first. They are `closing` now; call `forget` for each
            when it has gone.

        Raises:
            ModelTooLargeError: there will never be room for it.
            OverloadedError: what would have to go is in use.
        """
        assert slot.state == "preparing", slot
        victims = [] if self.budget_bytes is None else self._victims(slot, num_bytes, self.budget_bytes)
        for victim in victims:
            self._close(victim)
        slot.num_bytes, slot.state = num_bytes, "waiting"
        self._waiting.append(slot)
        return victims

    def start_waiting(self) -> list[Slot]:
        """Those for which there is room now, first come first served; they are `loading` now."""
        started = []
        while self._waiting:
            slot = self._waiting[0]
            if self.budget_bytes is not None and self.used_bytes + slot.num_bytes > self.budget_bytes:
                break
            slot.state = "loading"
            started.append(self._waiting.popleft())
        return started

    def loaded(self, slot: Slot, now: float) -> bool:
        """It is there; whether it goes at once, because it is leaving and nobody waited for it."""
        assert slot.state == "loading", slot
        slot.state, slot.last_used = "loaded", now
        return self._rest(slot, now)

    def forget(self, slot: Slot) -> None:
        """It has gone, or could not be loaded: its room is free."""
        assert slot.state != "gone", slot
        if slot.state == "waiting":
            self._waiting.remove(slot)
        self._leave(slot)
        slot.state = "gone"
        del self._slots[slot]

    def take(self, slot: Slot, now: float) -> None:
        """One more user; also of one that is still being loaded."""
        assert self._current.get(slot.name) is slot, slot
        slot.num_users += 1
        slot.last_used, slot.expires_at = now, None

    def let_go(self, slot: Slot, now: float) -> bool:
        """One user less; whether it goes now, and is `closing`."""
        assert slot.num_users > 0, slot
        slot.num_users -= 1
        slot.last_used = now
        return self._rest(slot, now)

    def keep_alive(self, slot: Slot, ttl_seconds: float, now: float) -> bool:
        """From now on it stays idle for so long; whether it goes now. Pinned ones stay."""
        slot.ttl_seconds = ttl_seconds
        return self._rest(slot, now)

    def pin(self, slot: Slot, pinned: bool, now: float) -> bool:
        """Whether it stays until it is told to go; returns whether it goes now."""
        slot.pinned = pinned
        return self._rest(slot, now)

    def dismiss(self, slot: Slot, now: float) -> bool:
        """Take no new users, and go with the last one; whether it goes now. Pinned or not."""
        slot.pinned = False
        self._leave(slot)
        return self._rest(slot, now)

    def expired(self, now: float) -> list[Slot]:
        """Those that have been idle for too long; they are `closing` now."""
        found = [slot for slot in self._current.values() if slot.expires_at is not None and slot.expires_at <= now]
        for slot in found:
            self._close(slot)
        return found

    def next_expiry(self) -> float | None:
        """When `expired` will have something to say; None = never, as things are."""
        times = [slot.expires_at for slot in self._current.values() if slot.expires_at is not None]
        return min(times, default=None)

    def check_integrity(self) -> None:
        """Every rule that this class exists for; AssertionError names the broken one."""
        budget = math.inf if self.budget_bytes is None else self.budget_bytes
        assert self.promised_bytes <= budget, f"promised {self.promised_bytes} of {budget}"
        assert self.used_bytes <= budget, f"used {self.used_bytes} of {budget}"
        assert {slot for slot in self._slots if slot.state == "waiting"} == set(self._waiting)
        for name, slot in self._current.items():
            assert slot.name == name
            assert slot in self._slots
            assert not slot.is_leaving
            assert slot.state in ("preparing", "waiting", "loading", "loaded")
            idle = slot.state == "loaded" and not slot.num_users
            assert (slot.expires_at is not None) <= (idle and not slot.pinned)
        for slot in self._slots:
            assert slot.state != "closing" or not slot.num_users, "one that goes is in use"
            assert not slot.is_leaving or self._current.get(slot.name) is not slot

    def _victims(self, slot: Slot, num_bytes: int, budget: int) -> list[Slot]:
        pinned = self.pinned_bytes(but=slot)
        if num_bytes > budget - pinned:
            kept = f", and {mebibytes(pinned)} of it are pinned" if pinned else ""
            raise ModelTooLargeError(
                f"{slot.name} takes {mebibytes(num_bytes)}; all models together may take {mebibytes(budget)}{kept}. "
                "Raise serving.model_memory_bytes, or lower crush.kv_cache_tokens or the context length"
            )
        missing = num_bytes - (budget - self.promised_bytes)
        idle = [other for other in self._current.values() if self._may_go(other)]
        victims: list[Slot] = []
        for other in sorted(idle, key=lambda other: other.last_used):
            if missing <= 0:
                break
            victims.append(other)
            missing -= other.num_bytes
        if missing > 0:
            used = ", ".join(f"{other.name} ({mebibytes(other.num_bytes)})" for other in self._slots if _stays(other))
            raise OverloadedError(
                f"{slot.name} takes {mebibytes(num_bytes)} and {mebibytes(missing)} of the {mebibytes(budget)} for "
                f"models cannot be freed now: in use or pinned are {used}; try again later",
                retry_after_seconds=_RETRY_SECONDS,
            )
        return victims

    @staticmethod
    def _may_go(slot: Slot) -> bool:
        return slot.state == "loaded" and not slot.pinned and slot.num_users == 0

    def _rest(self, slot: Slot, now: float) -> bool:
        """What follows when nobody uses it; whether it goes now."""
        slot.expires_at = None
        if slot.state != "loaded" or slot.num_users:
            return False
        if slot.is_leaving or (not slot.pinned and slot.ttl_seconds <= 0):
            self._close(slot)
            return True
        if not slot.pinned and slot.ttl_seconds != math.inf:
            slot.expires_at = now + slot.ttl_seconds
        return False

    def _close(self, slot: Slot) -> None:
        assert slot.state == "loaded", slot
        assert slot.num_users == 0, slot
        self._leave(slot)
        slot.state = "closing"

    def _leave(self, slot: Slot) -> None:
        slot.is_leaving, slot.expires_at = True, None
        if self._current.get(slot.name) is slot:
            del self._current[slot.name]


def _stays(slot: Slot) -> bool:
    return slot.state in ("waiting", "loading", "loaded") and (slot.pinned or slot.num_users > 0 or slot.is_leaving)


def mebibytes(num_bytes: int) -> str:
    """For people: 478 MiB."""
    return f"{num_bytes / 2**20:,.0f} MiB"
