"""A source of models that load when they are told to, and a log of what happens to them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glm_crush.errors import CheckpointError
from glm_crush.serving.model_pool.resident import Kind, LoadableModel, PreparedModel, Resident
from glm_crush.serving.served_model import ServedModel
from tests.serving.scripted import ByteCodec, ScriptedEngine


@dataclass
class AdaptingEngine(ScriptedEngine):
    """A scripted engine that remembers which adapters it has."""

    adapters: dict[str, str] = field(default_factory=dict)

    def load_adapter(self, name: str, path: str | Path) -> None:
        self.adapters[name] = str(path)

    def unload_adapter(self, name: str) -> None:
        del self.adapters[name]


@dataclass
class FakeSource:
    """Models of given sizes.

    Attributes:
        sizes: by name. kinds: of those that are no chat models. broken: names that cannot be loaded.
        gates: a load of this name waits for it. log: "start a" and "close a", in order.
    """

    sizes: dict[str, int]
    kinds: dict[str, Kind] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return name in self.sizes

    def loadable(self) -> list[LoadableModel]:
        return [LoadableModel(name, 1_700_000_000) for name in self.sizes]

    def serve(self, entries: Sequence[str]) -> dict[str, str]:
        return dict(entry.split("=") if "=" in entry else (entry, entry) for entry in entries)

    def prepare(self, name: str, limit_bytes: int | None) -> PreparedModel:
        kind = self.kinds.get(name, "chat")

        def start() -> Resident:
            self.log.append(f"start {name}")
            assert self.gates.get(name, _OPEN).wait(20)
            if name in self.broken:
                raise CheckpointError(f"{name} is torn")
            return Resident(
                name=name,
                kind=kind,
                served=served(name),
                close=lambda: self.log.append(f"close {name}"),
                weight_bytes=1,
            )

        def abort() -> None:
            self.broken.add(name)
            self.gates[name].set()

        return PreparedModel(
            name=name, kind=kind, weight_bytes=self.sizes[name], cache_bytes=0, start=start, abort=abort
        )


_OPEN = threading.Event()
_OPEN.set()


def served(name: str) -> ServedModel:
    return ServedModel(name=name, engine=AdaptingEngine(), codec=ByteCodec(), context_length=100, vocab_size=256)
