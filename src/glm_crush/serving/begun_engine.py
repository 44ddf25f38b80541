"""An engine's process that begins to load its model, while this process does something else.

Above: `local_source` and `local_model`. Below: `engine.process`. It imports little: the sooner the engine begins, the
sooner the server is ready.
"""

from __future__ import annotations

from glm_crush.config import Settings
from glm_crush.engine.process.engine_process import EngineProcess, Supervision
from glm_crush.engine.process.packed_engine import MAKE, packed_engine_arguments
from glm_crush.engine.process.spawned_child import SpawnedChild
from glm_crush.models.loader import LoadedModel

__all__ = ["begin_engine", "draft_model"]


def begin_engine(loaded: LoadedModel, settings: Settings, spawned: SpawnedChild | None = None) -> EngineProcess:
    """A child that maps the same packed file; it is not ready yet.

    Args:
        loaded: the model, its weights mapped.
        settings: engine, context, and how the process is watched.
        spawned: the process, where it has been started; taken over.
    """
    api = settings.api
    draft = draft_model(settings)
    return EngineProcess(
        MAKE,
        packed_engine_arguments(
            loaded.packed.path,
            settings.crush,
            settings.model.context_length,
            None if draft is None else draft.packed.path,
        ),
        max_queue_size=settings.crush.max_queue_size,
        supervision=Supervision(
            hang_seconds=api.engine_hang_seconds,
            wait_seconds=api.engine_wait_seconds,
            max_restarts_per_minute=api.engine_restarts_per_minute,
        ),
        spawned=spawned,
    )


def draft_model(settings: Settings) -> LoadedModel | None:
    """The second model that guesses for the first, if the settings name one."""
    if settings.crush.draft_model is None and settings.crush.speculation != "draft":
        return None
    # Imported here: most servers have no second model.
    from glm_crush.engine.build_drafter import load_draft_model

    return load_draft_model(settings)
