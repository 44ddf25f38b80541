"""What everything above sees of embedding models and rerankers, whoever computes them.

Above: `knowledge`, `cache`, `memory`, serving, remote backends. Below: errors. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Embedder", "Embeddings", "Reranker", "Scores"]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of some texts.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`. num_tokens: of all texts together.
    """

    vectors: npt.NDArray[np.float32]
    num_tokens: int


@dataclass(frozen=True)
class Scores:
    """How well each document answers, in their order; `num_tokens` were read for it."""

    scores: list[float]
    num_tokens: int


class Embedder(Protocol):
    """Turns texts into vectors; may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def dimensions(self) -> int:
        """Numbers per vector."""

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""

    def embed(
        self,
        texts: Sequence[str],
        *,
        kind: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> Embeddings:
        """One vector per text.

        Args:
            texts: what to embed.
            kind: "query" or "document", for models that were trained with a word before each; None adds nothing.
            dimensions: keep only so many numbers of each vector, at length 1 again.
            truncate: cut texts that are too long instead of refusing them.

        Raises:
            RequestError: a text is empty or too long, or a parameter is out of range.
        """


class Reranker(Protocol):
    """Says how well documents answer a query; may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def method(self) -> str:
        """What it does: "cross-encoder" reads query and document together, "cosine" compares two embeddings."""

    def score(self, query: str, documents: Sequence[str], *, truncate: bool = True) -> Scores:
        """A score per document, the higher the better: in (0, 1) for a cross-encoder, in [-1, 1] for a cosine.

        Raises:
            RequestError: a text is empty, or too long and not to be cut.
        """
