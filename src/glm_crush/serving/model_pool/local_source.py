"""Models of this machine: found in the store or by path, planned, and loaded with their engines.

Above: `glm serve`, which makes it the source of the server's pool. Below: the store, the loader, engines. Requests
reach models of the store only, by name: paths are the operator's to give.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glm_crush.config import Settings
from glm_crush.engine.memory_plan import MemoryPlan, plan_memory
from glm_crush.errors import ConfigError, GlmError, ModelNotFoundError, ModelTooLargeError
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.serving.begun_engine import begin_engine
from glm_crush.serving.model_pool.residency import mebibytes
from glm_crush.serving.model_pool.resident import Kind, LoadableModel, PreparedModel, Resident
from glm_crush.weights.stored_model import check_name

if TYPE_CHECKING:
    from glm_crush.engine.process.engine_process import EngineProcess
    from glm_crush.engine.process.spawned_child import SpawnedChild
    from glm_crush.weights.store import ModelStore

__all__ = ["LocalSource", "OpenPacked", "named_models"]

OpenPacked = Callable[[Path, str], LoadedModel]


def named_models(entries: Sequence[str]) -> dict[str, str]:
    """What each entry is called, and what it stands for: "smollm2:135m", "./a.gguf" or "small=./a.gguf".

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, separator, what = entry.partition("=")
        if not separator or not what.strip() or Path(entry).expanduser().exists():
            name, what = entry, entry
        name, what = name.strip(), what.strip()
        if name in found:
            raise ConfigError(f"two models are called {name!r}; give one of them another name, as NAME=MODEL")
        found[name] = what
    return found


class LocalSource:
    """Loads models as the settings say.

    Args:
        settings: of every model.
        store: the model store.
        path_of: finds, and may fetch, what the operator named; None = as the store does.

    Attributes:
        load_on_demand: whether requests may have any model of the store.
    """

    def __init__(self, settings: Settings, store: ModelStore, *, path_of: Callable[[str], Path] | None = None) -> None:
        self._settings = settings
        self._store = store
        self._path_of = path_of or store.resolve
        self.load_on_demand = settings.serving.load_on_demand
        self._served: Mapping[str, str] = {}

    def serve(self, entries: Sequence[str]) -> dict[str, str]:
        """Have these, and the encoders of the settings; see `ModelSource`."""
        encoders = (self._settings.encoders.embedding_model, self._settings.encoders.reranker_model)
        further = dict.fromkeys(name for name in encoders if name is not None and name not in entries)
        self._served = named_models([*entries, *further])
        return dict(self._served)

    def has(self, name: str) -> bool:
        """Whether it can be loaded."""
        return name in self._served or (self.load_on_demand and self._is_stored(name))

    def loadable(self) -> list[LoadableModel]:
        """What the operator named, then what is stored."""
        stored = {model.name: int(model.modified.timestamp()) for model in self._store.list()}
        names = dict.fromkeys([*self._served, *(stored if self.load_on_demand else ())])
        return [LoadableModel(name, stored.get(name, 0)) for name in names]

    def prepare(self, name: str, limit_bytes: int | None) -> PreparedModel:
        """Open it, which packs it first if that has not been done, and plan it; see `ModelSource`."""
        return self.plan(name, self.open(name), limit_bytes)

    def open(self, name: str, open_packed: OpenPacked | None = None) -> LoadedModel:
        """Map its packed file, which is made first if there is none; `open_packed` may show somebody how far it is.

        Raises:
            GlmError: there is no such model, or it cannot be used.
        """
        open_packed = open_packed or self._open_packed
        path = self._path_of(self._served[name]) if name in self._served else self._stored_path(name)
        loaded = open_packed(path, self._settings.crush.weight_format)
        weight_format = self._settings.encoders.weight_format
        is_encoder = loaded.compiled.readout.task != "generate"
        if is_encoder and weight_format not in ("auto", self._settings.crush.weight_format):
            loaded = open_packed(path, weight_format)
        return loaded

    def plan(
        self, name: str, loaded: LoadedModel, limit_bytes: int | None, *, spawned: SpawnedChild | None = None
    ) -> PreparedModel:
        """Plan an opened model; `spawned` is the process for its engine, where that has been started.

        Raises:
            ModelTooLargeError: it cannot keep to the limit; states the numbers.
        """
        if loaded.compiled.readout.task == "generate":
            return self._plan_chat(name, loaded, limit_bytes, spawned)
        return self._plan_encoder(name, loaded, limit_bytes)

    def _plan_chat(
        self, name: str, loaded: LoadedModel, limit_bytes: int | None, spawned: SpawnedChild | None
    ) -> PreparedModel:
        settings = self._settings_of(name, loaded)
        if limit_bytes is None:
            from glm_crush.engine.machine import available_memory_bytes

            limit_bytes = available_memory_bytes()
        try:
            plan = plan_memory(
                [loaded, *_beside(settings, loaded)],
                settings.crush,
                max_context=settings.model.context_length,
                budget_bytes=limit_bytes,
            )
        except ConfigError as error:
            weights = mebibytes(loaded.packed.weight_bytes)
            raise ModelTooLargeError(
                f"{name}: {error} It has {weights} of weights; {mebibytes(limit_bytes)} are left beside pinned models."
            ) from error
        start = _ChatStart(name, loaded, _planned(settings, plan), plan, spawned)
        return PreparedModel(
            name=name,
            kind="chat",
            weight_bytes=plan.weight_bytes,
            cache_bytes=plan.cache.num_bytes,
            start=start,
            begin=start.begin,
            abort=start.abort,
        )

    def _plan_encoder(self, name: str, loaded: LoadedModel, limit_bytes: int | None) -> PreparedModel:
        # Imported here: most servers have no encoder.
        from glm_crush.engine.encoder import encoder_cache_bytes

        weights, cache = loaded.packed.weight_bytes, encoder_cache_bytes(loaded, self._settings.encoders)
        if limit_bytes is not None and weights + cache > limit_bytes:
            raise ModelTooLargeError(
                f"{name} takes {mebibytes(weights + cache)}, and models may take {mebibytes(limit_bytes)} beside the "
                "pinned ones; raise serving.model_memory_bytes or lower encoders.max_length"
            )
        readout = loaded.compiled.readout
        kind: Kind = "embedding"
        if readout.task != "embed":
            kind = "reranker" if len(readout.labels) == 1 else "classifier"

        def start() -> Resident:
            from glm_crush.serving.local_encoder import serve_loaded_encoder

            served = serve_loaded_encoder(name, loaded, self._settings)
            return Resident(
                name=name, kind=kind, served=served, close=served.close, weight_bytes=weights, cache_bytes=cache
            )

        return PreparedModel(name=name, kind=kind, weight_bytes=weights, cache_bytes=cache, start=start)

    def _settings_of(self, name: str, loaded: LoadedModel) -> Settings:
        """What is said of the first model alone (a longer context than another has, who guesses) is not of others."""
        settings = self._settings
        if name == next(iter(self._served), None):
            return settings
        context = settings.model.context_length
        if context is not None:
            model = replace(settings.model, context_length=min(context, loaded.compiled.max_position))
            settings = replace(settings, model=model)
        crush = settings.crush
        if crush.draft_model is not None or crush.speculation in ("draft", "mtp"):
            speculation = "auto" if crush.speculation in ("draft", "mtp") else crush.speculation
            settings = replace(settings, crush=replace(crush, draft_model=None, speculation=speculation))
        return settings

    def _open_packed(self, path: Path, weight_format: str) -> LoadedModel:
        return load_model(path, cache_dir=self._settings.store.home / "packed", weight_format=weight_format)

    def _is_stored(self, name: str) -> bool:
        try:
            self._stored_path(name)
        except GlmError:
            return False
        return True

    def _stored_path(self, name: str) -> Path:
        """Raises ModelNotFoundError, also for what is a path and no name."""
        path = self._store.show(check_name(name)).path
        if not path.exists():
            raise ModelNotFoundError(f"{path}, registered as {name}, is gone; restore it or `glm rm {name}`")
        return path


class _ChatStart:
    """Starts the engine of a planned model; may be told from another thread to give up."""

    def __init__(
        self, name: str, loaded: LoadedModel, settings: Settings, plan: MemoryPlan, spawned: SpawnedChild | None
    ) -> None:
        self._name = name
        self._loaded = loaded
        self._settings = settings
        self._plan = plan
        self._spawned = spawned
        self._lock = threading.Lock()
        self._is_aborted = False
        self._engine: EngineProcess | None = None

    def begin(self) -> None:
        """See `PreparedModel.begin`."""
        if not self._settings.api.engine_process:
            return
        engine = begin_engine(self._loaded, self._settings, self._spawned)
        with self._lock:
            self._engine = engine
            is_aborted = self._is_aborted
        if is_aborted:
            engine.close()

    def __call__(self) -> Resident:
        """See `PreparedModel.start`."""
        if self._engine is None:
            self.begin()
        # Imported here: the engine loads its model meanwhile.
        from glm_crush.serving.local_model import serve_loaded_model

        served, engine = serve_loaded_model(self._name, self._loaded, self._settings, begun=self._engine)
        return Resident(
            name=self._name,
            kind="chat",
            served=served,
            close=engine.close,
            weight_bytes=self._plan.weight_bytes,
            cache_bytes=self._plan.cache.num_bytes,
        )

    def abort(self) -> None:
        """See `PreparedModel.abort`; an engine in this process loads to the end."""
        with self._lock:
            self._is_aborted = True
            engine = self._engine
        if engine is not None:
            engine.close()


def _beside(settings: Settings, loaded: LoadedModel) -> list[LoadedModel]:
    """What guesses for it and takes memory too."""
    crush = settings.crush
    if crush.draft_model is None and crush.speculation not in ("draft", "mtp"):
        return []
    # Imported here: it brings the engine's modules along.
    from glm_crush.engine.build_drafter import find_next_token_layer, load_draft_model

    found = [load_draft_model(settings), find_next_token_layer(crush, loaded)]
    return [model for model in found if model is not None]


def _planned(settings: Settings, plan: MemoryPlan) -> Settings:
    """Settings under which the engine takes exactly what was planned."""
    return replace(
        settings,
        crush=replace(settings.crush, kv_cache_tokens=plan.cache.num_tokens),
        model=replace(settings.model, context_length=plan.cache.max_context),
    )
