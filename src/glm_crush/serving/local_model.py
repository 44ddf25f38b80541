"""A loaded model with its engine, as the protocol adapters see it.

Above: `glm serve`. Below: `engine`, `chat`, `models`.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.config import Settings
from glm_crush.engine.machine import release_free_memory
from glm_crush.engine.process.engine_process import EngineProcess
from glm_crush.engine.sampling_defaults import sampling_defaults
from glm_crush.models.loader import LoadedModel
from glm_crush.serving.begun_engine import begin_engine, draft_model
from glm_crush.serving.model_details import ModelDetails
from glm_crush.serving.served_model import Grammars, ServedModel

if TYPE_CHECKING:
    from glm_crush.engine.async_engine import AsyncEngine
    from glm_crush.engine.build import MakeExecutor

__all__ = ["serve_loaded_model"]


def serve_loaded_model(
    name: str,
    loaded: LoadedModel,
    settings: Settings,
    *,
    make_executor: MakeExecutor | None = None,
    begun: EngineProcess | None = None,
) -> tuple[ServedModel, AsyncEngine | EngineProcess]:
    """Start an engine for a loaded model, in a process of its own or in a thread; the caller closes the engine.

    Args:
        name: what clients call the model.
        loaded: the model, its weights mapped.
        settings: engine, context, and where the engine runs.
        make_executor: what runs the model, in this process; None = the native executor.
        begun: its engine, where that has been begun (see `begin_engine`).

    Raises:
        ConfigError: settings, model and memory do not go together.
        EngineError: the engine's process died while it loaded the model.
    """
    engine: AsyncEngine | EngineProcess
    grammars: Grammars
    if settings.api.engine_process and make_executor is None:
        engine = grammars = begun or begin_engine(loaded, settings)
        codec, replies = _codec(loaded)  # meanwhile the child loads the model too
        max_context = _context_of(engine)
        release_free_memory()  # what loading took for a moment
    else:
        # Imported here: a server whose engine is elsewhere does without the engine's modules.
        from glm_crush.engine.async_engine import AsyncEngine
        from glm_crush.engine.build import build_engine

        built = build_engine(
            loaded,
            settings.crush,
            max_context=settings.model.context_length,
            make_executor=make_executor,
            draft=draft_model(settings),
        )
        engine, grammars, max_context = AsyncEngine(built.engine), built.grammars, built.cache.max_context
        codec, replies = _codec(loaded)
    header = loaded.packed.header
    model = ServedModel(
        name=name,
        engine=engine,
        codec=codec,
        replies=replies,
        grammars=grammars,
        context_length=max_context,
        vocab_size=loaded.compiled.program.vocab_size,
        context_policy=settings.crush.context_policy,
        default_params=sampling_defaults(loaded.generation_config),
        resume_streams=settings.api.resume_streams,
        explains_cache=settings.api.explain_cache,
        details=ModelDetails.of(loaded),
        fingerprint="-".join(
            (
                f"glm-crush-{installed_version('glm-crush')}",
                header.weight_format,
                settings.crush.kv_dtype,
                f"{max_context}{settings.crush.context_policy}",
                header.source_hash[:8],
            )
        ),
    )
    return model, engine


def _codec(loaded: LoadedModel) -> tuple[PromptCodec, ReplyFormat]:
    codec = PromptCodec.for_model(loaded)
    return codec, ReplyFormat(codec)


def _context_of(engine: EngineProcess) -> int:
    try:
        return engine.wait_until_ready().max_context
    except BaseException:
        engine.close()
        raise
