"""Embedding models and rerankers in this process: `EmbeddingModel("minilm").embed(["a text"])`.

Above: users' programs. Below: `engine`, the loader, the model store. Both may be called from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glm_crush.config import Settings, load_settings
from glm_crush.encoder_settings import DEFAULT_EMBEDDING_MODEL
from glm_crush.engine.embedder import NativeEmbedder
from glm_crush.engine.encoder import Encoder, MakeEncoderExecutor, build_encoder
from glm_crush.engine.encoder_protocols import Reranker, Scores
from glm_crush.engine.reranker import CosineReranker, CrossEncoderReranker
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.models.sentence import Pooling, SentenceConfig

__all__ = ["EmbeddingModel", "RankedDocument", "RerankModel"]


class EmbeddingModel(NativeEmbedder):
    """A loaded embedding model; see `encoder_protocols.Embedder` for `embed`.

    Attributes:
        loaded: the model's files and description.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        pooling: Pooling | None = None,
        weight_format: str | None = None,
        max_length: int | None = None,
        threads: int | None = None,
        make_executor: MakeEncoderExecutor | None = None,
    ) -> None:
        """Load a model, packing it first if that has not been done. What is None is taken from the configuration.

        Args:
            model: a name of the model store or a path; None = the configured one, or minilm.
            pooling: "mean", "first" or "last": makes an embedding model of one that generates text.
            weight_format: "auto" (as the source), "q4", "q8", "bf16" or "f32".
            max_length: longest text in tokens.
            threads: compute threads.
            make_executor: what runs the model; None = the native executor.

        Raises:
            ConfigError: an option is out of range.
            ModelError: the model does not exist or cannot be used.
        """
        settings = _settings(weight_format, max_length, threads)
        name = str(model or settings.encoders.embedding_model or DEFAULT_EMBEDDING_MODEL)
        sentence = None if pooling is None else SentenceConfig(pooling=pooling)
        self.loaded, encoder = _open(name, settings, sentence, make_executor)
        super().__init__(name, encoder, self.loaded.compiled.sentence)


@dataclass(frozen=True)
class RankedDocument:
    """One document of a ranking; `index` is its place in what was given."""

    index: int
    score: float
    text: str


class RerankModel:
    """A loaded reranker: a cross-encoder, or an embedding model that ranks by cosine.

    Attributes:
        name: of the model. method: "cross-encoder" or "cosine".
    """

    def __init__(
        self,
        model: str | Path,
        *,
        weight_format: str | None = None,
        max_length: int | None = None,
        threads: int | None = None,
        make_executor: MakeEncoderExecutor | None = None,
    ) -> None:
        """Arguments and errors as of `EmbeddingModel`."""
        settings = _settings(weight_format, max_length, threads)
        self.name = str(model)
        loaded, encoder = _open(self.name, settings, None, make_executor)
        self._reranker: Reranker
        if encoder.readout.task == "embed":
            self._reranker = CosineReranker(NativeEmbedder(self.name, encoder, loaded.compiled.sentence))
        else:
            self._reranker = CrossEncoderReranker(self.name, encoder)

    @property
    def method(self) -> str:
        """How it scores."""
        return self._reranker.method

    def score(self, query: str, documents: list[str], *, truncate: bool = True) -> Scores:
        """A score per document; see `encoder_protocols.Reranker`."""
        return self._reranker.score(query, documents, truncate=truncate)

    def rank(self, query: str, documents: list[str], top: int | None = None) -> list[RankedDocument]:
        """The documents, best first; `top` keeps only so many."""
        scores = self.score(query, documents).scores
        order = sorted(range(len(documents)), key=lambda index: (-scores[index], index))
        return [RankedDocument(index, scores[index], documents[index]) for index in order[:top]]


def _settings(weight_format: str | None, max_length: int | None, threads: int | None) -> Settings:
    return load_settings(
        flags={
            "encoders.weight_format": weight_format,
            "encoders.max_length": max_length,
            "crush.threads": threads,
        }
    )


def _open(
    name: str, settings: Settings, sentence: SentenceConfig | None, make_executor: MakeEncoderExecutor | None
) -> tuple[LoadedModel, Encoder]:
    path = Path(name).expanduser()
    if not path.exists():
        # Imported here: a path needs nothing of the store and its downloads.
        from glm_crush.weights.store import ModelStore

        path = ModelStore(settings.store.home).resolve(name)
    loaded = load_model(
        path,
        cache_dir=settings.store.home / "packed",
        weight_format=settings.encoders.weight_format,
        sentence=sentence,
    )
    return loaded, build_encoder(loaded, settings.encoders, settings.crush, make_executor=make_executor)
