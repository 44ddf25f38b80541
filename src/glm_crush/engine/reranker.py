"""How well documents answer a query: the native backends of the `Reranker` protocol.

A cross-encoder reads query and document together and is the better judge. Without one, the cosine of two vectors of
an embedding model ranks too; `method` says which of the two it was. Above: `knowledge`, serving. Below: `encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glm_crush.engine.embedder import NativeEmbedder
from glm_crush.engine.encoder import Encoder
from glm_crush.engine.encoder_protocols import Scores
from glm_crush.engine.encoder_runner import Float32
from glm_crush.errors import UnsupportedModelError

__all__ = ["CosineReranker", "CrossEncoderReranker", "relevance", "unit_vectors"]


class CrossEncoderReranker:
    """A model that reads query and document together and gives one number."""

    method = "cross-encoder"

    def __init__(self, name: str, encoder: Encoder) -> None:
        """Raises UnsupportedModelError when the model does not give one number per pair."""
        if encoder.readout.task != "classify" or len(encoder.readout.labels) != 1:
            raise UnsupportedModelError(
                f"{name} gives {encoder.readout.task} with {len(encoder.readout.labels)} labels; "
                "a reranker classifies with one label"
            )
        self.name = name
        self.encoder = encoder

    @property
    def max_length(self) -> int:
        """Longest pair in tokens."""
        return self.encoder.max_length

    def score(self, query: str, documents: Sequence[str], *, truncate: bool = True) -> Scores:
        """See `encoder_protocols.Reranker`."""
        room = self.max_length if truncate else None
        pairs = [
            self.encoder.encode(query, document, truncate_to=room, parameter=f"documents[{index}]")
            for index, document in enumerate(documents)
        ]
        scores = relevance(self.encoder.runner.run_all(pairs))
        return Scores(scores.tolist(), sum(len(pair.token_ids) for pair in pairs))


class CosineReranker:
    """An embedding model as a reranker: the cosine of query and document."""

    method = "cosine"

    def __init__(self, embedder: NativeEmbedder) -> None:
        self.name = embedder.name
        self._embedder = embedder

    @property
    def max_length(self) -> int:
        """Longest text in tokens, of query and document each."""
        return self._embedder.max_length

    def score(self, query: str, documents: Sequence[str], *, truncate: bool = True) -> Scores:
        """See `encoder_protocols.Reranker`."""
        asked = self._embedder.embed([query], kind="query", truncate=truncate)
        found = self._embedder.embed(documents, kind="document", truncate=truncate)
        scores = unit_vectors(found.vectors) @ unit_vectors(asked.vectors)[0]
        return Scores([float(score) for score in scores], asked.num_tokens + found.num_tokens)


def relevance(logits: Float32) -> Float32:
    """The logistic function of a reranker's logits `[n, 1]`: in (0, 1), and in the same order."""
    return np.asarray(1 / (1 + np.exp(-logits[:, 0].astype(np.float64))), np.float32)


def unit_vectors(vectors: Float32) -> Float32:
    """Vectors at length 1; most models give them so."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
