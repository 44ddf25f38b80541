"""The models of one server: loaded when a request names them, closed when they are idle or room is needed.

Above: `ServedModels` and `ServedEncoders`, which find models here. Below: `Residency`, which decides, and a
`ModelSource`, which loads. Everything but loading and closing happens in the event loop, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field

from glm_crush.errors import (
    ConfigError,
    EngineError,
    GlmError,
    ModelNotFoundError,
    ModelTooLargeError,
    OverloadedError,
)
from glm_crush.serving.model_pool.alarm import Alarm
from glm_crush.serving.model_pool.failed_loads import FailedLoads
from glm_crush.serving.model_pool.pool_metrics import CloseReason, PoolMetrics
from glm_crush.serving.model_pool.residency import Residency, Slot, mebibytes
from glm_crush.serving.model_pool.resident import Kind, LoadableModel, ModelSource, PreparedModel, Resident

__all__ = ["ModelChanges", "ModelPool", "WrongKindError"]

_log = logging.getLogger("glm_crush.serving")

_CLOSE_SECONDS = 5.0


class WrongKindError(ModelNotFoundError):
    """The model is there and does something else than what was asked for."""


@dataclass(frozen=True)
class ModelChanges:
    """What a new list of models has brought: names, and why one of them could not be loaded."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class _Stay:
    """What belongs to a slot: its load, who wants what of it, what came of it, and why it will end."""

    wanted: set[frozenset[Kind] | None] = field(default_factory=set)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    load: asyncio.Task[None] | None = None
    prepared: PreparedModel | None = None
    resident: Resident | None = None
    reason: CloseReason = "idle"


class ModelPool:
    """Models by name.

    Args:
        source: where models come from that are not loaded; None = there are those that were given to it.
        residency: the rules; None = no limits.
        clock: seconds, for what is idle.

    Attributes:
        metrics: what it has done. served: the models that it is to have, by name, and what each stands for.
    """

    def __init__(
        self,
        source: ModelSource | None = None,
        residency: Residency | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = PoolMetrics()
        self.residency = residency or Residency()
        self.served: dict[str, str] = {}
        self._kinds: dict[str, Kind] = {}
        self._source = source
        self._clock = clock
        self._stays: dict[Slot, _Stay] = {}
        self._failures = FailedLoads()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm = Alarm(self.close_idle, clock)
        self._is_closed = False

    # --- what there is ---

    def residents(self) -> list[Resident]:
        """The loaded models that requests may have, in the order in which they came."""
        current = (slot for slot in self.residency if self.residency.get(slot.name) is slot)
        return [resident for slot in current if (resident := self._stays[slot].resident) is not None]

    def resident(self, name: str) -> Resident | None:
        """The loaded model of this name."""
        slot = self.residency.get(name)
        return None if slot is None else self._stays[slot].resident

    def has(self, name: str) -> bool:
        """Whether a request may name it: it is loaded, or can be."""
        return self.residency.get(name) is not None or (self._source is not None and self._source.has(name))

    def kind(self, name: str) -> Kind | None:
        """What a model is, loaded or not; None = it has not been loaded yet."""
        return self._kinds.get(name)

    def loadable(self) -> list[LoadableModel]:
        """What can be loaded, or is."""
        return [] if self._source is None else self._source.loadable()

    # --- requests ---

    @asynccontextmanager
    async def lease(
        self, name: str, kinds: frozenset[Kind] | None = None, *, keep_alive: float | None = None
    ) -> AsyncIterator[Resident]:
        """A model, loaded if need be, which stays at least until the block ends.

        Args:
            name: of the model.
            kinds: what it must be one of; None = anything.
            keep_alive: seconds that it stays idle from now on; None = as before.

        Raises:
            ModelNotFoundError: there is no such model, or (WrongKindError) it is of another kind.
            ModelTooLargeError: there will never be room for it. OverloadedError: there is none now.
            ModelLoadError: it could not be loaded; says why.
        """
        slot = self.residency.get(name) or self._begin(name)
        stay = self._stays[slot]
        self.residency.take(slot, self._clock())
        try:
            if stay.resident is None:
                stay.wanted.add(kinds)
                assert stay.load is not None
                await asyncio.shield(stay.load)
            assert stay.resident is not None
            _check_kind(stay.resident.name, stay.resident.kind, kinds)
            if keep_alive is not None:
                self.residency.keep_alive(slot, keep_alive, self._clock())
            yield stay.resident
        finally:
            if slot.state != "gone":  # else it could not be loaded
                self._follow(slot, goes=self.residency.let_go(slot, self._clock()))

    # --- operators ---

    def adopt(self, resident: Resident, *, pinned: bool = True) -> None:
        """Take a model that is in memory already. Raises as `load_now`."""
        self.load_now(
            PreparedModel(
                name=resident.name,
                kind=resident.kind,
                weight_bytes=resident.weight_bytes,
                cache_bytes=resident.cache_bytes,
                start=lambda: resident,
            ),
            pinned=pinned,
        )

    def load_now(self, prepared: PreparedModel, *, pinned: bool = True) -> Resident:
        """Load a model before there is an event loop; blocks.

        Raises:
            ConfigError: two would have this name.
            ModelTooLargeError, OverloadedError: there is no room for it. GlmError: it cannot be loaded.
        """
        if self.residency.get(prepared.name) is not None:
            raise ConfigError(f"two models are called {prepared.name!r}; give one of them another name, as NAME=MODEL")
        slot = self.residency.open(prepared.name, self._clock(), pinned=pinned)
        stay = self._stays[slot] = _Stay(prepared=prepared)
        try:
            for victim in self.residency.claim(slot, prepared.num_bytes):
                self._stays[victim].reason = "memory"
                self._close_resident(victim)
                self._forget(victim)
            self._start_waiting()
            assert slot.state == "loading", slot
            stay.resident = prepared.start()
        except BaseException:
            prepared.abort()
            self._forget(slot)
            raise
        self.residency.loaded(slot, self._clock())
        self.served.setdefault(prepared.name, prepared.name)
        self._kinds[prepared.name] = prepared.kind
        return stay.resident

    async def load(self, name: str, *, pinned: bool | None = None, keep_alive: float | None = None) -> Resident:
        """Load a model if it is not loaded. Raises as `lease` does; one that failed just now is tried again."""
        self._failures.forgive(name)
        async with self.lease(name, keep_alive=keep_alive) as resident:
            if pinned is not None:
                self.pin(name, pinned)
            return resident

    def pin(self, name: str, pinned: bool) -> None:
        """Keep a model until it is told to go, or no longer. Raises ModelNotFoundError: it is not loaded."""
        slot = self._slot(name)
        self._follow(slot, goes=self.residency.pin(slot, pinned, self._clock()))

    def is_pinned(self, name: str) -> bool:
        """Whether a model is loaded, and stays until it is told to go."""
        slot = self.residency.get(name)
        return slot is not None and slot.pinned

    def expires_in(self, name: str) -> float | None:
        """Seconds after which a loaded model goes if nobody asks for it again; None = never."""
        slot = self.residency.get(name)
        if slot is None or slot.pinned or slot.ttl_seconds == math.inf:
            return None
        return slot.ttl_seconds if slot.expires_at is None else max(0.0, slot.expires_at - self._clock())

    def expire(self, name: str) -> None:
        """Let a model go as soon as nobody uses it, unless it is pinned; nothing happens if it is not loaded."""
        slot = self.residency.get(name)
        if slot is not None:
            self._follow(slot, goes=self.residency.keep_alive(slot, 0.0, self._clock()))

    async def unload(self, name: str, reason: CloseReason = "unloaded") -> None:
        """Close a model, pinned or not, once the requests that have it have ended; new ones do not get it.

        Raises:
            ModelNotFoundError: it is not loaded.
        """
        stay = self._dismiss(name, reason)
        await stay.gone.wait()

    async def reconcile(self, entries: Sequence[str], *, pinned: bool = True) -> ModelChanges:
        """Serve these models from now on, in this order: new ones are loaded, others go when they can.

        Args:
            entries: a name of the store, a path, or NAME=PATH. One that stands for another model now is loaded anew.
            pinned: whether the new ones stay until they are told to go.
        """
        assert self._source is not None
        before, now = self.served, self._source.serve(entries)
        self.served = now
        removed = tuple(name for name, what in before.items() if now.get(name) != what)
        added = tuple(name for name, what in now.items() if before.get(name) != what)
        leaving = {name: self._dismiss(name, "removed") for name in removed if self.residency.get(name) is not None}
        failed = {}
        for name in added:
            try:
                if name in leaving:
                    await leaving[name].gone.wait()
                await self.load(name, pinned=pinned)
            except GlmError as error:
                failed[name] = str(error)
        return ModelChanges(added, removed, failed)

    def close_idle(self) -> None:
        """Close those that have been idle for too long."""
        for slot in self.residency.expired(self._clock()):
            self._follow(slot, goes=True)
        self._set_timer()

    async def close(self) -> None:
        """Close every model; what is being loaded is given up. For the end of the server."""
        self._is_closed = True
        self._alarm.stop()
        for stay in self._stays.values():
            if stay.resident is None and stay.prepared is not None:
                stay.prepared.abort()
        residents = [stay.resident for stay in self._stays.values() if stay.resident is not None]
        await asyncio.gather(*(asyncio.to_thread(resident.close) for resident in residents))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)

    # --- loading ---

    def _begin(self, name: str) -> Slot:
        if self._is_closed:
            raise EngineError("the server is stopping; no model is loaded any more")
        if self._source is None or not self._source.has(name):
            raise ModelNotFoundError(f"the model {name!r:.100} is not served here")
        self._failures.check(name, self._clock())
        slot = self.residency.open(name, self._clock())
        stay = self._stays[slot] = _Stay()
        stay.load = self._start(self._load(slot, stay))
        return slot

    async def _load(self, slot: Slot, stay: _Stay) -> None:
        started, source = self._clock(), self._source
        assert source is not None
        try:
            limit = self.residency.limit_bytes(slot.name)
            stay.prepared = prepared = await asyncio.to_thread(source.prepare, slot.name, limit)
            self._kinds[slot.name] = prepared.kind
            if not any(kinds is None or prepared.kind in kinds for kinds in stay.wanted):
                raise _wrong_kind(slot.name, prepared.kind)
            for victim in self.residency.claim(slot, prepared.num_bytes):
                self._stays[victim].reason = "memory"
                self._follow(victim, goes=True)
            self._start_waiting()
            await stay.room.wait()
            _log.info("loading %s (%s)", slot.name, mebibytes(prepared.num_bytes))
            stay.resident = await asyncio.to_thread(prepared.start)
        except Exception as error:
            self._forget(slot)
            raise self._failure(slot.name, error) from error
        seconds = self._clock() - started
        self.metrics.loads[slot.name] += 1
        self.metrics.load_seconds[slot.name] += seconds
        _log.info("loaded %s in %.1f s", slot.name, seconds)
        self._follow(slot, goes=self.residency.loaded(slot, self._clock()))

    def _failure(self, name: str, error: Exception) -> GlmError:
        """What its clients are told; what may have passed the next time is not kept."""
        if isinstance(error, (ModelNotFoundError, ModelTooLargeError, OverloadedError)):
            return error
        self.metrics.failures[name] += 1
        why = f"{name} could not be loaded: {error if isinstance(error, GlmError) else repr(error)}"
        _log.error(why, exc_info=None if isinstance(error, GlmError) else error)
        return self._failures.add(name, why, self._clock())

    def _start_waiting(self) -> None:
        for slot in self.residency.start_waiting():
            self._stays[slot].room.set()

    # --- closing ---

    def _dismiss(self, name: str, reason: CloseReason) -> _Stay:
        slot = self._slot(name)
        stay = self._stays[slot]
        stay.reason = reason
        self._follow(slot, goes=self.residency.dismiss(slot, self._clock()))
        return stay

    def _follow(self, slot: Slot, *, goes: bool) -> None:
        """Do what the rules said of a slot."""
        if goes:
            self._start(self._close(slot))
        else:
            self._set_timer()

    async def _close(self, slot: Slot) -> None:
        try:
            await asyncio.to_thread(self._close_resident, slot)
        finally:
            self._forget(slot)

    def _close_resident(self, slot: Slot) -> None:
        stay = self._stays[slot]
        assert stay.resident is not None
        _log.info("closing %s (%s)", slot.name, stay.reason)
        self.metrics.closed[slot.name, stay.reason] += 1
        stay.resident.close()

    def _forget(self, slot: Slot) -> None:
        """It holds no memory any more."""
        self.residency.forget(slot)
        stay = self._stays.pop(slot)
        # Requests that have just ended may look at the stay still: they must not keep the model.
        stay.resident = stay.prepared = None
        stay.gone.set()
        self._start_waiting()

    def _set_timer(self) -> None:
        due = self.residency.next_expiry()
        if due is not None:
            self._alarm.set(due)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Not on behalf of the request that happened to be the first."""
        task = Context().run(asyncio.get_running_loop().create_task, work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits is told; nobody may

    def _slot(self, name: str) -> Slot:
        slot = self.residency.get(name)
        if slot is None:
            raise ModelNotFoundError(f"the model {name!r:.100} is not loaded; GET /admin/v1/models lists what is")
        return slot


def _check_kind(name: str, kind: Kind, kinds: frozenset[Kind] | None) -> None:
    if kinds is not None and kind not in kinds:
        raise _wrong_kind(name, kind)


def _wrong_kind(name: str, kind: Kind) -> WrongKindError:
    what = {"chat": "a chat model", "embedding": "an embedding model"}.get(kind, f"a {kind}")
    return WrongKindError(f"{name} is {what} and cannot do this; GET /v1/models says what each model can do")
