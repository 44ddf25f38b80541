"""Embedding models and rerankers as the protocol adapters see them: texts in, vectors or scores out.

Above: the adapters. Below: an encoder and its queue. Tokenising and waiting happen off the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glm_crush.engine.encoder import Encoder, TextInput
from glm_crush.engine.encoder_queue import EncoderQueue
from glm_crush.engine.encoder_runner import Float32
from glm_crush.engine.reranker import relevance, unit_vectors
from glm_crush.errors import InvalidParameterError, ModelNotFoundError
from glm_crush.models.sentence import SentenceConfig
from glm_crush.serving.gateway.metering import metered_prompt
from glm_crush.serving.model_details import ModelDetails
from glm_crush.tokenizer.encoded_text import EncodedText

__all__ = ["EmbeddedTexts", "ScoredPairs", "ServedEncoder", "ServedEncoders"]

# Tokenising less than this takes well under a millisecond: not worth a thread switch.
_INLINE_CHARACTERS = 2_000


@dataclass(frozen=True, eq=False)
class EmbeddedTexts:
    """Float32 `[num_texts, dimensions]` vectors and how many tokens were read."""

    vectors: Float32
    num_tokens: int


@dataclass(frozen=True)
class ScoredPairs:
    """One score per pair, how many tokens were read, and by what method."""

    scores: list[float]
    num_tokens: int
    method: str


@dataclass(frozen=True, kw_only=True)
class ServedEncoder:
    """One encoder behind the API.

    Attributes:
        name: what clients call it. queue: computes its texts. sentence: how an embedding model treats its texts.
        details: for those who ask what it is.
    """

    name: str
    encoder: Encoder
    queue: EncoderQueue
    sentence: SentenceConfig | None = None
    details: ModelDetails = field(default_factory=ModelDetails)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def task(self) -> str:
        """As in `Readout`: "embed" for vectors, "classify" for labels or a reranker's score."""
        return self.encoder.readout.task

    @property
    def is_reranker(self) -> bool:
        """Whether it reads a pair and gives one number."""
        return self.task == "classify" and len(self.encoder.readout.labels) == 1

    @property
    def is_alive(self) -> bool:
        """Whether new texts can be answered."""
        return self.queue.is_alive

    async def embed(
        self, texts: Sequence[TextInput], *, kind: str | None = None, truncate_to: int | None = None
    ) -> EmbeddedTexts:
        """One vector per text or list of token ids.

        Raises:
            RequestError: a text is empty or too long. OverloadedError: too many wait. EngineError: it is stopped.
        """
        sentence = self.sentence or SentenceConfig()
        several = len(texts) > 1

        def encode() -> list[EncodedText]:
            return [
                self.encoder.encode(
                    sentence.prepared(text, kind) if isinstance(text, str) else text,
                    truncate_to=truncate_to,
                    parameter=f"input[{index}]" if several else "input",
                )
                for index, text in enumerate(texts)
            ]

        return await self._compute(sum(map(len, texts)), encode)

    async def score(
        self, pairs: Sequence[tuple[str, str]], *, truncate_to: int | None = None, second_length: int | None = None
    ) -> ScoredPairs:
        """How well the second of each pair answers the first: by this model, or by the cosine of its vectors.

        Raises: as `embed`, and InvalidParameterError when the model gives neither.
        """
        if self.task == "embed":
            return await self._cosines(pairs, truncate_to, second_length)
        if not self.is_reranker:
            raise InvalidParameterError(
                f"{self.name} gives {len(self.encoder.readout.labels)} labels; a reranker gives one", parameter="model"
            )

        def encode() -> list[EncodedText]:
            return [
                self.encoder.encode(
                    query, text, truncate_to=truncate_to, second_length=second_length, parameter=f"documents[{index}]"
                )
                for index, (query, text) in enumerate(pairs)
            ]

        done = await self._compute(sum(len(a) + len(b) for a, b in pairs), encode)
        return ScoredPairs(relevance(done.vectors).tolist(), done.num_tokens, "cross-encoder")

    async def _cosines(
        self, pairs: Sequence[tuple[str, str]], truncate_to: int | None, second_length: int | None
    ) -> ScoredPairs:
        queries = list(dict.fromkeys(query for query, _ in pairs))
        shorter = truncate_to if second_length is None else min(second_length, truncate_to or second_length)
        asked = await self.embed(queries, kind="query", truncate_to=truncate_to)
        found = await self.embed([text for _, text in pairs], kind="document", truncate_to=shorter)
        rows = [queries.index(query) for query, _ in pairs] if len(queries) > 1 else [0] * len(pairs)
        cosines = np.sum(unit_vectors(asked.vectors)[rows] * unit_vectors(found.vectors), axis=1)
        return ScoredPairs(cosines.tolist(), asked.num_tokens + found.num_tokens, "cosine")

    async def _compute(self, size: int, encode: Callable[[], list[EncodedText]]) -> EmbeddedTexts:
        texts = encode() if size < _INLINE_CHARACTERS else await asyncio.to_thread(encode)
        num_tokens = sum(len(text.token_ids) for text in texts)
        async with metered_prompt(self.name, num_tokens):
            rows = await asyncio.wrap_future(self.queue.submit(texts))
        return EmbeddedTexts(rows, num_tokens)

    def close(self) -> None:
        """Stop computing; what waits fails."""
        self.queue.close()


Wanted = Literal["embedding model", "reranker"]


class ServedEncoders:
    """Encoders in the order in which they are listed."""

    def __init__(self, encoders: Iterable[ServedEncoder] = ()) -> None:
        self._encoders = {encoder.name: encoder for encoder in encoders}
        self._num_users: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedEncoder]:
        return iter(list(self._encoders.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._encoders

    async def find(self, name: str | None, wanted: Wanted) -> ServedEncoder:
        """The encoder a request names, or the first that fits; for reranking an embedding model does too.

        Raises:
            ModelNotFoundError: there is none of that name, or none that fits.
        """
        fitting = [encoder for encoder in self._encoders.values() if encoder.task == "embed"]
        if wanted == "reranker":
            fitting = [encoder for encoder in self._encoders.values() if encoder.is_reranker] + fitting
        known = ", ".join(encoder.name for encoder in fitting)
        if not name or (name == "default" and name not in self._encoders):
            if fitting:
                return fitting[0]
            raise ModelNotFoundError(
                f"no {wanted} is served here; start the server with one: `glm serve --embedding-model minilm`"
            )
        if name not in self._encoders or self._encoders[name] not in fitting:
            served = f"; there is {known}" if known else "; start the server with `--embedding-model` or `--reranker`"
            raise ModelNotFoundError(f"no {wanted} {name!r} is served here{served}")
        return self._encoders[name]

    @asynccontextmanager
    async def use(self, name: str | None, wanted: Wanted) -> AsyncIterator[ServedEncoder]:
        """The encoder a request names, counted as in use until the block ends. Raises as `find` does."""
        encoder = await self.find(name, wanted)
        self._num_users[encoder.name] += 1
        try:
            yield encoder
        finally:
            self._num_users[encoder.name] -= 1

    def num_users(self, name: str) -> int:
        """How many requests hold the encoder of this name now."""
        return self._num_users[name]

    def close(self) -> None:
        """Stop all of them."""
        for encoder in self:
            encoder.close()
