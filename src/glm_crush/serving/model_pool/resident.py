"""A model in memory, a model that is about to be, and where models come from.

Above: `pool`. Below: served models and encoders. This module says what each is; `local_source` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from glm_crush.serving.model_alias import ModelAlias
    from glm_crush.serving.served_encoder import ServedEncoder
    from glm_crush.serving.served_model import ServedModel

__all__ = ["Kind", "LoadableModel", "ModelSource", "PreparedModel", "Resident"]

Kind = Literal["chat", "embedding", "reranker", "classifier"]


def _nothing() -> None:
    pass


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory.

    Attributes:
        served: what answers. close: stops it and frees its memory; blocks, may be called twice.
        weight_bytes, cache_bytes: what it may take.
        views: itself as requests see it, and with each of its adapters, by name. aliases: by name, an alias, the view
            it was laid over, and what came of it. Both go with it.
    """

    name: str
    kind: Kind
    served: ServedModel | ServedEncoder
    close: Callable[[], None] = _nothing
    weight_bytes: int = 0
    cache_bytes: int = 0
    views: dict[str, ServedModel] = field(default_factory=dict)
    aliases: dict[str, tuple[ModelAlias, ServedModel, ServedModel]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """A model whose files have been read as far as it takes to know what it is and what it will take.

    Attributes:
        start: loads it; blocks, and raises any error of ours.
        begin: has begin what another process does for it, so that `start` waits less; may be left out.
        abort: makes a running `start` fail soon, and ends what was begun.
    """

    name: str
    kind: Kind
    weight_bytes: int
    cache_bytes: int
    start: Callable[[], Resident]
    begin: Callable[[], None] = _nothing
    abort: Callable[[], None] = _nothing

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes


@dataclass(frozen=True)
class LoadableModel:
    """A model that a request may name; `created` is when its files came, in seconds since 1970."""

    name: str
    created: int


class ModelSource(Protocol):
    """Where a pool takes its models from."""

    def has(self, name: str) -> bool:
        """Whether it can be loaded; reads a small file at most."""
        ...

    def loadable(self) -> list[LoadableModel]:
        """All that can be."""
        ...

    def serve(self, entries: Sequence[str]) -> dict[str, str]:
        """Have these too from now on, and no others but those of the store; returns what each name stands for.

        An entry is a name of the store, a path, or NAME=PATH.
        """
        ...

    def prepare(self, name: str, limit_bytes: int | None) -> PreparedModel:
        """Find out what it is and plan its memory within a limit; blocks, for minutes when it must be packed first.

        Raises:
            ModelNotFoundError: it has gone. ModelTooLargeError: it cannot keep to the limit.
            GlmError: it cannot be used.
        """
        ...
