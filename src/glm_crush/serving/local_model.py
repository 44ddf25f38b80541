"""A loaded model with its engine in this process, as the protocol adapters see it.

Above: `glm serve`. Below: `engine`, `chat`, `models`.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version

from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.config import Settings
from glm_crush.engine.async_engine import AsyncEngine
from glm_crush.engine.build import MakeExecutor, build_engine
from glm_crush.engine.sampling_defaults import sampling_defaults
from glm_crush.models.loader import LoadedModel
from glm_crush.serving.served_model import ServedModel

__all__ = ["serve_loaded_model"]


def serve_loaded_model(
    name: str, loaded: LoadedModel, settings: Settings, *, make_executor: MakeExecutor | None = None
) -> tuple[ServedModel, AsyncEngine]:
    """Start an engine for a loaded model; the caller closes the engine.

    Args:
        name: what clients call the model.
        loaded: the model, its weights mapped.
        settings: engine and context.
        make_executor: what runs the model; None = the native executor.

    Raises:
        ConfigError: settings, model and memory do not go together.
    """
    built = build_engine(loaded, settings.crush, max_context=settings.model.context_length, make_executor=make_executor)
    header = loaded.packed.header
    engine = AsyncEngine(built.engine)
    codec = PromptCodec.for_model(loaded)
    model = ServedModel(
        name=name,
        engine=engine,
        codec=codec,
        replies=ReplyFormat(codec),
        grammars=built.grammars,
        context_length=built.cache.max_context,
        vocab_size=loaded.compiled.program.vocab_size,
        default_params=sampling_defaults(loaded.generation_config),
        fingerprint=f"glm-crush-{installed_version('glm-crush')}-{header.weight_format}-{header.source_hash[:8]}",
    )
    return model, engine
