"""A loaded encoder with its queue in this process, as the protocol adapters see it.

Above: `glm serve`. Below: `engine`, `models`.
"""

from __future__ import annotations

from glm_crush.config import Settings
from glm_crush.engine.encoder import MakeEncoderExecutor, build_encoder
from glm_crush.engine.encoder_queue import EncoderQueue
from glm_crush.models.loader import LoadedModel
from glm_crush.serving.model_details import ModelDetails
from glm_crush.serving.served_encoder import ServedEncoder

__all__ = ["serve_loaded_encoder"]


def serve_loaded_encoder(
    name: str, loaded: LoadedModel, settings: Settings, *, make_executor: MakeEncoderExecutor | None = None
) -> ServedEncoder:
    """Start the queue of a loaded encoder; the caller closes it.

    Raises:
        ConfigError, UnsupportedModelError: settings and model do not go together.
    """
    encoder = build_encoder(loaded, settings.encoders, settings.crush, make_executor=make_executor)
    queue = EncoderQueue(encoder.runner, max_queue_size=settings.encoders.max_queue_size)
    return ServedEncoder(
        name=name,
        encoder=encoder,
        queue=queue,
        sentence=loaded.compiled.sentence,
        details=ModelDetails.of(loaded),
    )
