"""Texts to vectors: the native backend of the `Embedder` protocol.

Above: `knowledge`, serving, users' programs. Below: `encoder`. It computes in the thread of whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glm_crush.engine.encoder import Encoder, TextInput
from glm_crush.engine.encoder_protocols import Embeddings
from glm_crush.engine.encoder_runner import Float32
from glm_crush.errors import InvalidParameterError, UnsupportedModelError
from glm_crush.models.sentence import SentenceConfig

__all__ = ["NativeEmbedder", "shorten_vectors"]


class NativeEmbedder:
    """An embedding model in this process.

    Attributes:
        name: what it is called. encoder: the model. sentence: how it treats its texts.
    """

    def __init__(self, name: str, encoder: Encoder, sentence: SentenceConfig | None = None) -> None:
        """Raises UnsupportedModelError when the model gives no vectors."""
        if encoder.readout.task != "embed":
            raise UnsupportedModelError(f"{name} gives {_GIVES[encoder.readout.task]}, no embeddings")
        self.name = name
        self.encoder = encoder
        self.sentence = sentence or SentenceConfig()

    @property
    def dimensions(self) -> int:
        """Numbers per vector."""
        return self.encoder.runner.width

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.encoder.max_length

    def embed(
        self,
        texts: Sequence[TextInput],
        *,
        kind: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> Embeddings:
        """One vector per text; see `encoder_protocols.Embedder`."""
        encoded = [
            self.encoder.encode(
                self.sentence.prepared(text, kind) if isinstance(text, str) else text,
                truncate_to=self.max_length if truncate else None,
                parameter=f"texts[{index}]",
            )
            for index, text in enumerate(texts)
        ]
        vectors = shorten_vectors(self.encoder.runner.run_all(encoded), dimensions)
        return Embeddings(vectors, sum(len(text.token_ids) for text in encoded))


_GIVES = {
    "generate": "the next token",
    "classify": "labels of texts",
    "classify_tokens": "labels of tokens",
    "fill_mask": "masked words",
}


def shorten_vectors(vectors: Float32, dimensions: int | None) -> Float32:
    """The first `dimensions` numbers of each vector, at length 1 again; all of them for None.

    Good for models trained for it (Kusupati et al. 2022, Matryoshka representation learning).

    Raises:
        InvalidParameterError: a vector has fewer.
    """
    width = vectors.shape[1]
    if dimensions is None or dimensions == width:
        return vectors
    if not 1 <= dimensions <= width:
        raise InvalidParameterError(
            f"dimensions is {dimensions}; this model's vectors have {width}, give 1 to {width}", parameter="dimensions"
        )
    short = vectors[:, :dimensions]
    length = np.linalg.norm(short, axis=1, keepdims=True)
    return np.asarray(short / np.maximum(length, np.float32(1e-12)), np.float32)
