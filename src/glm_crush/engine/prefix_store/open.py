"""Opens the prefix store that the settings ask for, for one model and one engine.

Above: `build`. Below: every part of the store.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from glm_crush.config import CrushSettings
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.errors import ConfigError
from glm_crush.models.loader import LoadedModel

if TYPE_CHECKING:
    from glm_crush.engine.prefix_store.stored_prefixes import StoredPrefixes
    from glm_crush.engine.runner import Executor

__all__ = ["open_stored_prefixes"]

_log = logging.getLogger(__name__)


def open_stored_prefixes(
    settings: CrushSettings, loaded: LoadedModel, executor: Executor, cache: PrefixCache | None, pool: BlockPool
) -> StoredPrefixes | None:
    """The store, ready for use; None where none is wanted.

    Raises:
        ConfigError: it cannot be used, or there is no prefix cache to keep.
    """
    if settings.prefix_store is None:
        return None
    if cache is None:
        raise ConfigError("prefix_store is set and prefix_cache is off; there is nothing to keep: leave one out")
    # Imported here: most engines keep nothing.
    from glm_crush.engine.prefix_store.block_store import BlockStore
    from glm_crush.engine.prefix_store.folder import StoreFolder
    from glm_crush.engine.prefix_store.identity import store_identity
    from glm_crush.engine.prefix_store.store_thread import BlockMemory, StoreThread
    from glm_crush.engine.prefix_store.stored_prefixes import StoredPrefixes

    memory = cast("BlockMemory", executor)
    identity = store_identity(
        packed=loaded.packed,
        program=loaded.compiled.program,
        kv_dtype=settings.kv_dtype,
        numerics=memory.numerics,
        block_size=pool.block_size,
    )
    root = Path(settings.prefix_store).expanduser()
    folder = StoreFolder(root, identity, max_bytes=settings.prefix_store_bytes)
    if not folder.is_writer:
        _log.warning("the prefix store %s is written by another process; this one reads it only", folder.path)
    store = BlockStore(folder, identity, memory.block_bytes)
    _log.info("the prefix store %s holds %d blocks, %.0f MB", folder.path, len(store), store.num_bytes / 1e6)
    metrics = EngineMetrics()
    thread = StoreThread(store, memory, metrics, is_writer=folder.is_writer)
    return StoredPrefixes(thread, cache, pool, metrics)
