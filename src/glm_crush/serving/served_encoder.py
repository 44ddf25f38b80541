"""Embedding models and rerankers as the protocol adapters see them: texts in, vectors or scores out.

Above: the adapters. Below: an encoder and its queue. Tokenising and waiting happen off the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from glm_crush.errors import InvalidParameterError, ModelNotFoundError
from glm_crush.models.sentence import SentenceConfig
from glm_crush.serving.gateway.admission import current_admission
from glm_crush.serving.gateway.metering import metered_prompt
from glm_crush.serving.model_details import ModelDetails
from glm_crush.serving.model_pool.pool import ModelPool, WrongKindError
from glm_crush.serving.model_pool.resident import Kind, Resident

if TYPE_CHECKING:
    from glm_crush.engine.encoder import Encoder, TextInput
    from glm_crush.engine.encoder_queue import EncoderQueue
    from glm_crush.engine.encoder_runner import Float32
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
    def kind(self) -> Kind:
        """What a pool calls it."""
        return "embedding" if self.task == "embed" else "reranker" if self.is_reranker else "classifier"

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

        # Imported here, as everywhere beneath the routes: servers without an encoder do without NumPy.
        from glm_crush.engine.reranker import relevance

        done = await self._compute(sum(len(a) + len(b) for a, b in pairs), encode)
        return ScoredPairs(relevance(done.vectors).tolist(), done.num_tokens, "cross-encoder")

    async def _cosines(
        self, pairs: Sequence[tuple[str, str]], truncate_to: int | None, second_length: int | None
    ) -> ScoredPairs:
        import numpy as np

        from glm_crush.engine.reranker import unit_vectors

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

_ENCODERS: frozenset[Kind] = frozenset(("embedding", "reranker", "classifier"))
_KINDS: Mapping[Wanted, frozenset[Kind]] = MappingProxyType(
    {"embedding model": frozenset(("embedding",)), "reranker": frozenset(("embedding", "reranker"))}
)


class ServedEncoders:
    """Encoders in the order in which they are listed.

    Args:
        encoders: those that are in memory already.
        pool: where encoders are and come from; None = one of its own.
    """

    def __init__(self, encoders: Iterable[ServedEncoder] = (), pool: ModelPool | None = None) -> None:
        self.pool = pool or ModelPool()
        for encoder in encoders:
            size = encoder.details.size_bytes
            self.pool.adopt(Resident(name=encoder.name, kind=encoder.kind, served=encoder, weight_bytes=size))

    def __iter__(self) -> Iterator[ServedEncoder]:
        """The loaded ones."""
        served = (resident.served for resident in self.pool.residents())
        return iter([encoder for encoder in served if isinstance(encoder, ServedEncoder)])

    def __contains__(self, name: str) -> bool:
        """Whether an encoder of this name is loaded, or has been and can be again."""
        return self.pool.kind(name) in _ENCODERS and self.pool.has(name)

    async def find(self, name: str | None, wanted: Wanted) -> ServedEncoder:
        """The loaded encoder a request names, or the first that fits; for reranking an embedding model does too.

        Raises:
            ModelNotFoundError: there is none of that name, or none that fits.
        """
        fitting = self._fitting(wanted)
        if not name or (name == "default" and name not in self):
            if fitting:
                return fitting[0]
            raise ModelNotFoundError(
                f"no {wanted} is served here; start the server with one: `glm serve --embedding-model minilm`"
            )
        for encoder in fitting:
            if encoder.name == name:
                return encoder
        raise self._not_found(name, wanted)

    @asynccontextmanager
    async def use(
        self, name: str | None, wanted: Wanted, *, keep_alive: float | None = None
    ) -> AsyncIterator[ServedEncoder]:
        """The encoder a request names, loaded if need be, held until the block ends.

        Args:
            name: None, empty and "default" are the first that fits.
            wanted: what it is for.
            keep_alive: seconds that it stays loaded after its last use from now on; None = as before.

        Raises:
            ModelNotFoundError: there is none of that name, or none that fits. AccessDeniedError: the key is not for it.
            ModelTooLargeError, ModelLoadError, OverloadedError: see `ModelPool.lease`.
        """
        if not name or (name == "default" and name not in self) or not self.pool.has(name):
            name = (await self.find(name, wanted)).name
        admission = current_admission()
        if admission is not None:
            admission.check_model(name)  # before anything is loaded for it, or has to go
        try:
            async with self.pool.lease(name, _KINDS[wanted], keep_alive=keep_alive) as resident:
                assert isinstance(resident.served, ServedEncoder)
                yield resident.served
        except WrongKindError as error:
            raise self._not_found(name, wanted) from error

    def num_users(self, name: str) -> int:
        """How many requests hold the encoder of this name now."""
        slot = self.pool.residency.get(name)
        return 0 if slot is None else slot.num_users

    def _fitting(self, wanted: Wanted) -> list[ServedEncoder]:
        found = [encoder for encoder in self if encoder.kind == "embedding"]
        return [encoder for encoder in self if encoder.is_reranker] + found if wanted == "reranker" else found

    def _not_found(self, name: str | None, wanted: Wanted) -> ModelNotFoundError:
        known = ", ".join(encoder.name for encoder in self._fitting(wanted))
        served = f"; there is {known}" if known else "; start the server with `--embedding-model` or `--reranker`"
        return ModelNotFoundError(f"no {wanted} {name!r:.100} is served here{served}")
