"""The chat models that the server answers with, by name: models, aliases of them, and their LoRA adapters.

Above: the protocol adapters. Below: the pool, which has the models in memory or loads them, and `ServedModel`. A model
is held with `use` for as long as a request needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from glm_crush.errors import ModelNotFoundError
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.model_alias import ModelAlias, ModelAliases, model_of
from glm_crush.serving.model_pool.pool import ModelChanges, ModelPool
from glm_crush.serving.model_pool.resident import Kind, LoadableModel, Resident
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.serving.served_model import AdapterEngine, ServedModel, Watch
from glm_crush.serving.turn_guard import TurnGuard

__all__ = ["ServedModels"]

_CHAT: frozenset[Kind] = frozenset(("chat",))


@dataclass(frozen=True)
class _Adapter:
    """A LoRA adapter: the model that it changes, and where it lies."""

    name: str
    base: str
    path: str | Path
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class _Target:
    """What a name stands for: the model in memory or to be loaded, and what is laid over it."""

    name: str
    base: str
    adapter: _Adapter | None = None
    alias: ModelAlias | None = None


class ServedModels:
    """Chat models in the order in which they are listed; the first that was served is the default one.

    Args:
        models: those that are in memory already.
        aliases: see below. encoders: see below; they share its pool.
        pool: where models are and come from; None = that of the encoders.

    Attributes:
        aliases: further names for models; one whose model cannot be had is not listed.
        encoders: the embedding models and rerankers beside them.
    """

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        aliases: ModelAliases | None = None,
        encoders: ServedEncoders | None = None,
        pool: ModelPool | None = None,
    ) -> None:
        self.aliases = aliases or ModelAliases()
        self.encoders = ServedEncoders(pool=pool) if encoders is None else encoders
        self.pool = self.encoders.pool
        self._adapters: dict[str, _Adapter] = {}
        self._watches: tuple[Watch, ...] = ()
        self._guard: TurnGuard | None = None
        for model in models:
            size = model.details.size_bytes
            self.pool.adopt(Resident(name=model.name, kind="chat", served=model, weight_bytes=size))

    def __iter__(self) -> Iterator[ServedModel]:
        """The loaded models, their adapters, and the aliases of both."""
        residents = self._chat_residents()
        found = [self._view(_Target(name, name), resident) for name, resident in residents.items()]
        for adapter in self._adapters.values():
            resident = residents.get(adapter.base)
            view = None if resident is None else resident.views.get(adapter.name)
            found += [] if view is None else [view]
        names = {model.name for model in found}
        for alias in self._usable_aliases():
            target = self._target(alias.name)
            if target.base in residents and (target.adapter is None or target.adapter.name in names):
                found.append(self._view(target, residents[target.base]))
        return iter(found)

    def __contains__(self, name: str) -> bool:
        """Whether clients may call for it, loaded or not."""
        try:
            self._target(name)
        except ModelNotFoundError:
            return False
        return name != "default" or self._is_model(name) or self.aliases.get(name) is not None

    def names(self) -> list[str]:
        """What clients may call for, loaded or not; of what was never loaded nobody knows yet whether it can chat."""
        loaded = [*self._chat_residents(), *self._adapters]
        others = [model.name for model in self.not_loaded() if self.pool.kind(model.name) in (None, "chat")]
        aliases = [alias.name for alias in self._usable_aliases()]
        return list(dict.fromkeys([*loaded, *aliases, *others]))

    def not_loaded(self) -> list[LoadableModel]:
        """Models of any kind that would be loaded for a request."""
        return [model for model in self.pool.loadable() if self.pool.resident(model.name) is None]

    def is_alias(self, name: str) -> bool:
        """Whether this is another name of a model, and not one."""
        return not self._is_model(name) and self.aliases.get(name) is not None

    @property
    def default_name(self) -> str:
        """The model of requests that name none.

        Raises:
            ModelNotFoundError: nothing is served.
        """
        name = self.default_name_or_none
        if name is None:
            raise ModelNotFoundError("no model is served here; start the server with one: `glm serve MODEL`")
        return name

    @property
    def default_name_or_none(self) -> str | None:
        """The same; None = nothing is served."""
        return next((name for name in self.pool.served if self.pool.kind(name) == "chat"), None)

    @property
    def default(self) -> ServedModel:
        """The same, if it is loaded. Raises ModelNotFoundError otherwise."""
        return self._loaded(self._target(None))

    async def find(self, name: str | None) -> ServedModel:
        """The loaded model of a name; no name and "default" are the default one. Nothing is loaded for it.

        Raises:
            ModelNotFoundError: this server has no model of that name, or it is not loaded.
        """
        return self._loaded(self._target(name))

    @asynccontextmanager
    async def use(self, name: str | None, *, keep_alive: float | None = None) -> AsyncIterator[ServedModel]:
        """The model a request names, loaded if need be, held until the block ends.

        Args:
            name: None, empty and "default" are the default one.
            keep_alive: seconds that it stays loaded after its last use from now on; None = as before.

        Raises:
            ModelNotFoundError: this server has no model of that name. AccessDeniedError: the key is not for it.
            ModelTooLargeError, ModelLoadError, OverloadedError: see `ModelPool.lease`.
        """
        target = self._target(name)
        admission = current_admission()
        if admission is not None:
            admission.check_model(target.name)  # before anything is loaded for it, or has to go
        async with self.pool.lease(target.base, _CHAT, keep_alive=keep_alive) as resident:
            if target.adapter is not None:
                await self._bring_adapter(target.adapter, resident)
            yield self._view(target, resident)

    def is_pinned(self, name: str) -> bool:
        """Whether the model behind a name is loaded, and stays so. Raises ModelNotFoundError."""
        return self.pool.is_pinned(self._target(name).base)

    def expire(self, name: str) -> None:
        """Let the model behind a name go as soon as nobody uses it, unless it is pinned.

        Raises:
            ModelNotFoundError: this server has no model of that name. AccessDeniedError: the key is not for it.
        """
        target = self._target(name)
        admission = current_admission()
        if admission is not None:
            admission.check_model(target.name)
        self.pool.expire(target.base)

    def identity(self, name: str | None) -> tuple[str, str, bool] | None:
        """Name and fingerprint of the loaded model that a request would get, and whether it is greedy by default.

        None if there is no such model, it is not loaded, or what it is may change. Nothing is loaded for it.
        """
        if name in (None, "", "default") and not self.pool.served:
            return None
        try:
            target = self._target(name)
        except ModelNotFoundError:
            return None
        resident = self._chat_residents().get(target.base)
        if resident is None or target.adapter is not None or target.alias is not None:
            return None  # another may come under its name
        model = self._view(target, resident)
        guarded = "" if model.guard is None else model.guard.fingerprint()
        return model.name, model.fingerprint + guarded, model.default_params.temperature == 0

    def adapter(self, name: str) -> ServedModel | None:
        """The LoRA adapter served under this name, if its model is loaded."""
        adapter = self._adapters.get(name)
        resident = None if adapter is None else self.pool.resident(adapter.base)
        return None if resident is None else resident.views.get(name)

    def has_adapter(self, name: str) -> bool:
        """Whether a LoRA adapter is served under this name, its model loaded or not."""
        return name in self._adapters

    def adapters_of(self, name: str) -> list[str]:
        """Names of the LoRA adapters of a model."""
        return [adapter.name for adapter in self._adapters.values() if adapter.base == name]

    def add_adapter(self, name: str, path: str | Path, base: ServedModel) -> None:
        """Serve a LoRA adapter, which the engine has already, beside the model that it changes."""
        for resident_name, resident in self._chat_residents().items():
            if isinstance(resident.served, ServedModel) and resident.served.engine is base.engine:
                adapter = self._adapters[name] = _Adapter(name, resident_name, path)
                self._lay_over(adapter, resident)
                return
        raise ModelNotFoundError(f"{base.name} has been unloaded meanwhile; try again")

    def remove_adapter(self, name: str) -> None:
        """Stop serving it."""
        adapter = self._adapters.pop(name)
        resident = self.pool.resident(adapter.base)
        if resident is not None:
            resident.views.pop(name, None)

    def watch_generations(self, *watches: Watch) -> None:
        """Let `watches` see the generations of every model from now on."""
        self._watches = watches
        for resident in self._chat_residents().values():
            resident.views = {name: replace(model, watches=watches) for name, model in resident.views.items()}

    async def reconcile(self, entries: Sequence[str]) -> ModelChanges:
        """Serve these models from now on; see `ModelPool.reconcile`."""
        return await self.pool.reconcile(entries)

    @property
    def guard(self) -> TurnGuard | None:
        """What checks the turns of every model."""
        return self._guard

    def guard_turns(self, guard: TurnGuard | None) -> None:
        """Let `guard` check what goes into every model and what comes out, from now on; None = nothing is checked."""
        self._guard = guard
        for resident in self._chat_residents().values():
            resident.views = {name: replace(model, guard=guard) for name, model in resident.views.items()}

    def num_users(self, name: str) -> int:
        """How many requests hold the model of this name, or an alias or adapter of it, now."""
        slot = self.pool.residency.get(name)
        return 0 if slot is None else slot.num_users

    def num_all_users(self) -> int:
        """How many requests hold any chat model now."""
        return sum(slot.num_users for slot in self.pool.residency if self.pool.kind(slot.name) in (None, "chat"))

    # --- names ---

    def _target(self, name: str | None) -> _Target:
        """Raises ModelNotFoundError: there is no such name."""
        if name and self._is_model(name):
            adapter = self._adapters.get(name)
            return _Target(name, name if adapter is None else adapter.base, adapter)
        alias = self.aliases.get(name) if name else None
        if alias is not None and self._is_model(alias.base):
            adapter = self._adapters.get(alias.base)
            return _Target(alias.name, alias.base if adapter is None else adapter.base, adapter, alias)
        if not name or name == "default":
            return _Target(self.default_name, self.default_name)
        raise ModelNotFoundError(f"the model {name!r:.100} is not served here; there is {', '.join(self.names())}")

    def _is_model(self, name: str) -> bool:
        if name in self._adapters:
            return True
        return self.pool.kind(name) in (None, "chat") and self.pool.has(name)

    def _usable_aliases(self) -> list[ModelAlias]:
        """A model's own name counts more than an alias."""
        aliases = self.aliases.all()
        return [alias for alias in aliases if self._is_model(alias.base) and not self._is_model(alias.name)]

    # --- models ---

    def _chat_residents(self) -> dict[str, Resident]:
        return {resident.name: resident for resident in self.pool.residents() if resident.kind == "chat"}

    def _loaded(self, target: _Target) -> ServedModel:
        resident = self._chat_residents().get(target.base)
        if resident is None or (target.adapter is not None and target.adapter.name not in resident.views):
            raise ModelNotFoundError(f"the model {target.name!r:.100} is not loaded now")
        return self._view(target, resident)

    def _view(self, target: _Target, resident: Resident) -> ServedModel:
        """Made once: a template is compiled, and requests that begin alike must meet the same model."""
        assert isinstance(resident.served, ServedModel)
        if target.alias is None and target.adapter is not None:
            return resident.views[target.adapter.name]
        if target.alias is None:
            model = resident.views.get(target.base)
            if model is None:
                model = replace(resident.served, watches=self._watches, guard=self._guard)
                resident.views[target.base] = model
            return model
        base = self._view(replace(target, alias=None), resident)
        known = resident.aliases.get(target.name)
        if known is None or known[0] is not target.alias or known[1] is not base:
            known = resident.aliases[target.name] = (target.alias, base, model_of(target.alias, base))
        return known[2]

    async def _bring_adapter(self, adapter: _Adapter, resident: Resident) -> None:
        """Have the engine load an adapter again whose model had been unloaded meanwhile."""
        async with adapter.loading:
            if adapter.name not in resident.views:
                assert isinstance(resident.served, ServedModel)
                engine = resident.served.engine
                assert isinstance(engine, AdapterEngine)
                await asyncio.to_thread(engine.load_adapter, adapter.name, adapter.path)
                self._lay_over(adapter, resident)

    def _lay_over(self, adapter: _Adapter, resident: Resident) -> None:
        base = self._view(_Target(resident.name, resident.name), resident)
        resident.views[adapter.name] = replace(
            base, name=adapter.name, adapter=adapter.name, parent=base.name, root=str(adapter.path)
        )
