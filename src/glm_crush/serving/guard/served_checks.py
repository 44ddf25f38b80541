"""Checks of whole texts that need a served model: topics by likeness, and the verdict of a guard model.

Above: the building of the guard. Below: encoders, the guard model.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from glm_crush.engine.encoder_runner import Float32
from glm_crush.engine.reranker import unit_vectors
from glm_crush.serving.gateway.admission import acting_for_server
from glm_crush.serving.guard.guard_model import GuardModel
from glm_crush.serving.guard.policy_file import Topic
from glm_crush.serving.guard.rule import Direction
from glm_crush.serving.guard.text_check import ALL_ROLES, STRANGERS
from glm_crush.serving.served_encoder import ServedEncoder, ServedEncoders

__all__ = ["ModelCheck", "TopicCheck"]

_PIECE = 600  # characters: about what a sentence model reads
_MOST_PIECES = 32


@dataclass
class TopicCheck:
    """Texts like a topic's examples; or, where the topic is an allowed one, texts unlike them.

    A long text is looked at in pieces: one that is like the examples is enough.
    """

    topic: Topic
    encoders: ServedEncoders | None
    directions: tuple[Direction, ...] = ("input", "output")
    roles: frozenset[str] = STRANGERS
    reads_all: bool = False
    _examples: tuple[ServedEncoder, Float32] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.topic.name

    @property
    def problem(self) -> str | None:
        """See `TextCheck`."""
        if self.encoders is not None and any(encoder.task == "embed" for encoder in self.encoders):
            return None
        return "topics are told by an embedding model, and none is served; start the server with --embedding-model"

    async def applies(self, text: str, _: Direction) -> bool:
        """See `TextCheck`."""
        return (await self.likeness(text) >= self.topic.threshold) != self.topic.is_allowed

    async def likeness(self, text: str) -> float:
        """The largest cosine between a piece of the text and an example."""
        assert self.encoders is not None
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        pieces = [piece for piece in pieces if piece.strip()][:_MOST_PIECES]
        if not pieces:
            return 0.0
        with acting_for_server():
            async with self.encoders.use(None, "embedding model") as encoder:
                if self._examples is None or self._examples[0] is not encoder:
                    found = await encoder.embed(self.topic.examples, truncate_to=encoder.encoder.max_length)
                    self._examples = encoder, unit_vectors(found.vectors)
                embedded = await encoder.embed(pieces, truncate_to=encoder.encoder.max_length)
        cosines = await asyncio.to_thread(np.matmul, unit_vectors(embedded.vectors), self._examples[1].T)
        return float(cosines.max())


@dataclass(frozen=True)
class ModelCheck:
    """What a guard model takes for harmful."""

    model: GuardModel | None
    threshold: float
    name: str = "model"
    directions: tuple[Direction, ...] = ("input", "output")
    roles: frozenset[str] = ALL_ROLES - {"system"}
    reads_all: bool = True

    @property
    def problem(self) -> str | None:
        """See `TextCheck`."""
        return None if self.model is not None else "no model judges; name a served one in guard.model"

    async def applies(self, text: str, _: Direction) -> bool:
        """See `TextCheck`."""
        assert self.model is not None
        return await self.model.harm(text) >= self.threshold
