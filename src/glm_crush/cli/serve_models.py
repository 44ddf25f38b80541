"""The models that a server starts with: found, fetched if they are the default ones, packed, loaded.

Above: `serve`. Below: `models`, the server's pool. Progress is shown on standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glm_crush.config import Settings
    from glm_crush.engine.process.spawned_child import SpawnedChild
    from glm_crush.models.loader import LoadedModel
    from glm_crush.serving.reloading.change import LiveChange
    from glm_crush.serving.served_models import ServedModels

__all__ = ["models_change", "served_entries", "start_models"]

# The engine leaves a tenth of what is free to the rest; planning from a little less, it never finds less than planned.
_SPARE_SHARE = 0.15


def served_entries(settings: Settings, given: list[str]) -> list[str]:
    """The models to start with: those given to the verb, those of the settings, or the default model."""
    if given:
        return given
    listed = [entry.strip() for entry in (settings.serving.models or "").split(",")]
    return [entry for entry in listed if entry] or [settings.model.name]


def models_change(models: ServedModels, name: str | None) -> LiveChange:
    """The models of the settings can change while the server runs, unless some were given to the verb."""
    from glm_crush.serving.reloading.change import Commit, LiveChange

    def prepare(settings: Settings) -> Commit:
        entries = _named_entries(settings, [], name)

        async def reconcile() -> Mapping[str, str]:
            return (await models.reconcile(entries)).failed

        return reconcile

    return LiveChange(frozenset({"serving.models", "model.name"}), prepare)


def _named_entries(settings: Settings, given: list[str], name: str | None) -> list[str]:
    """The same as `served_entries`, the first under the name that clients call it by.

    Raises:
        ConfigError: two have one name.
    """
    from glm_crush.serving.model_pool.local_source import named_models

    first, *others = served_entries(settings, given)
    if name is not None:
        [what] = named_models([first]).values()
        first = f"{name}={what}"
    named_models([first, *others])
    return [first, *others]


def start_models(
    settings: Settings,
    given: list[str],
    name: str | None,
    spawned: SpawnedChild | None,
    *,
    meanwhile: Callable[[], None] | None = None,
) -> ServedModels:
    """Load the models that a server starts with, and make what it loads others with.

    Args:
        settings: of the server and its models.
        given: models given to the verb.
        name: what clients call the first of them; None = as it was given.
        spawned: a process for the first engine; it is ended if no model needs it.
        meanwhile: called while the engine of the first model loads it.

    Raises:
        ModelError, DownloadError, ConfigError: one cannot be used here.
    """
    from glm_crush.cli.models import find_model, load_packed, open_store
    from glm_crush.engine.machine import available_memory_bytes
    from glm_crush.serving.model_pool.local_source import LocalSource
    from glm_crush.serving.model_pool.pool import ModelPool
    from glm_crush.serving.model_pool.residency import Residency

    source = LocalSource(settings, open_store(settings), path_of=lambda what: find_model(settings, what))
    names = source.serve(_named_entries(settings, given, name))
    serving = settings.serving
    budget = serving.model_memory_bytes
    if budget is None:
        budget = int(available_memory_bytes() * (1 - _SPARE_SHARE))
    ttl_seconds = math.inf if serving.model_ttl_seconds is None else serving.model_ttl_seconds
    residency = Residency(budget, ttl_seconds)
    pool = ModelPool(source, residency)
    pool.served = dict(names)

    def open_packed(path: Path, weight_format: str) -> LoadedModel:
        return load_packed(settings, path, weight_format=weight_format)

    opened = {each: source.open(each, open_packed) for each in names}
    while opened:
        # What is left beside all weights is shared: the first model's cache must not take it all.
        weights = sum(loaded.packed.weight_bytes for loaded in opened.values())
        spare = budget - residency.promised_bytes - weights
        each, loaded = next(iter(opened.items()))
        limit = loaded.packed.weight_bytes + spare // len(opened)
        free = None if spawned is None or spawned.taken else spawned
        prepared = source.plan(each, loaded, limit, spawned=free)
        if meanwhile is not None:
            prepared.begin()
            meanwhile()
            meanwhile = None
        pool.load_now(prepared, pinned=serving.pin)
        del opened[each]
    if spawned is not None:
        spawned.discard()  # if no model has taken it
    # Imported here: the engine of a model begins before.
    from glm_crush.serving.model_alias import ModelAliases
    from glm_crush.serving.served_models import ServedModels

    return ServedModels(aliases=ModelAliases(settings.store.home / "aliases"), pool=pool)
