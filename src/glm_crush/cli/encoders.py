"""Embedding models and rerankers for the verbs: found, fetched if they are the default, packed, loaded.

Above: `embed`, `rerank`. Below: `models`, the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glm_crush.config import Settings
    from glm_crush.engine.embedder import NativeEmbedder
    from glm_crush.engine.encoder_protocols import Reranker
    from glm_crush.models.loader import LoadedModel
    from glm_crush.models.sentence import Pooling

__all__ = ["load_encoder", "open_embedder", "open_reranker"]


def load_encoder(settings: Settings, name: str, pooling: Pooling | None = None) -> LoadedModel:
    """A loaded encoder; `pooling` makes an embedding model of any model.

    Raises:
        ModelError, DownloadError: it cannot be used here.
    """
    from glm_crush.cli.models import find_model, load_packed
    from glm_crush.models.sentence import SentenceConfig

    return load_packed(
        settings,
        find_model(settings, name),
        weight_format=settings.encoders.weight_format,
        sentence=None if pooling is None else SentenceConfig(pooling=pooling),
    )


def open_embedder(settings: Settings, name: str | None, pooling: Pooling | None = None) -> NativeEmbedder:
    """An embedding model: the named one, the configured one, or the default one.

    Raises:
        ModelError, DownloadError, ConfigError: it cannot be used here.
    """
    from glm_crush.encoder_settings import DEFAULT_EMBEDDING_MODEL
    from glm_crush.engine.embedder import NativeEmbedder
    from glm_crush.engine.encoder import build_encoder

    name = name or settings.encoders.embedding_model or DEFAULT_EMBEDDING_MODEL
    loaded = load_encoder(settings, name, pooling)
    return NativeEmbedder(name, build_encoder(loaded, settings.encoders, settings.crush), loaded.compiled.sentence)


def open_reranker(settings: Settings, name: str | None) -> Reranker:
    """The named or configured cross-encoder; an embedding model ranks by cosine.

    Raises:
        ModelError, DownloadError, ConfigError: it cannot be used here.
    """
    from glm_crush.engine.embedder import NativeEmbedder
    from glm_crush.engine.encoder import build_encoder
    from glm_crush.engine.reranker import CosineReranker, CrossEncoderReranker

    name = name or settings.encoders.reranker_model
    if name is None:
        return CosineReranker(open_embedder(settings, None))
    loaded = load_encoder(settings, name)
    encoder = build_encoder(loaded, settings.encoders, settings.crush)
    if encoder.readout.task == "embed":
        return CosineReranker(NativeEmbedder(name, encoder, loaded.compiled.sentence))
    return CrossEncoderReranker(name, encoder)
