"""The LoRA adapters that an engine has: by name for requests, by slot for the executor.

Above: the engine, whose thread installs and removes them between two steps. Below: the executor. Reading and fitting
take a while and touch nothing shared: `prepare` may run in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from glm_crush.engine.request import LoadedAdapter
from glm_crush.errors import InvalidParameterError, UnsupportedModelError
from glm_crush.kernels.program import AdapterPart
from glm_crush.weights.adapter import Adapter, read_adapter

__all__ = ["AdapterExecutor", "Adapters", "PreparedAdapter"]

_MAX_NAME_LENGTH = 200
# No UTF-8 text holds this byte, so no client's salt can be an adapter's.
_SALT_MARK = b"\xff"


class AdapterExecutor(Protocol):
    """What runs adapters; called between two steps."""

    def load_adapter(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Put an adapter into a slot."""

    def unload_adapter(self, slot: int) -> None:
        """Empty a slot."""


@dataclass(frozen=True)
class PreparedAdapter:
    """An adapter that has been read and fits the model."""

    name: str
    fingerprint: str
    parts: Sequence[AdapterPart]


class Adapters:
    """All adapters of one engine.

    Args:
        executor: None = this engine takes none.
        fit: what an adapter changes in the executor's program; raises ModelError where it does not fit.
    """

    def __init__(
        self, executor: AdapterExecutor | None = None, fit: Callable[[Adapter], Sequence[AdapterPart]] | None = None
    ) -> None:
        self._executor = executor
        self._fit = fit
        self._loaded: dict[str, LoadedAdapter] = {}

    def names(self) -> list[str]:
        """Of those that are loaded, oldest first."""
        return list(self._loaded)

    def find(self, name: str | None) -> LoadedAdapter | None:
        """The adapter that a request names; None if it names none.

        Raises:
            InvalidParameterError: there is none of that name.
        """
        if name is None:
            return None
        if name not in self._loaded:
            have = f"there is {', '.join(self._loaded)}" if self._loaded else "none is loaded"
            raise InvalidParameterError(f"the adapter {name!r:.100} is not loaded; {have}", parameter="adapter")
        return self._loaded[name]

    def prepare(self, name: str, path: str | Path) -> PreparedAdapter:
        """Read an adapter and fit it to the model; may be called in any thread.

        Raises:
            InvalidParameterError: the name cannot be one.
            ModelError: the folder is no adapter, or none for this model.
        """
        if not name or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise InvalidParameterError(
                f"the adapter's name is {name!r:.100}; give 1 to {_MAX_NAME_LENGTH} printable characters",
                parameter="lora_name",
            )
        if self._fit is None:
            raise UnsupportedModelError("this engine takes no adapters")
        adapter = read_adapter(path)
        return PreparedAdapter(name, adapter.fingerprint, self._fit(adapter))

    def install(self, adapter: PreparedAdapter) -> None:
        """Let requests use it from the next step on.

        Raises:
            InvalidParameterError: one of that name is loaded.
        """
        if adapter.name in self._loaded:
            raise InvalidParameterError(
                f"an adapter {adapter.name!r} is loaded; unload it first, or choose another name", parameter="lora_name"
            )
        assert self._executor is not None
        used = {loaded.slot for loaded in self._loaded.values()}
        slot = next(slot for slot in range(len(used) + 1) if slot not in used)
        self._executor.load_adapter(slot, adapter.parts)
        salt = _SALT_MARK + adapter.fingerprint.encode() + _SALT_MARK
        self._loaded[adapter.name] = LoadedAdapter(adapter.name, slot, salt)

    def remove(self, name: str, users: Collection[str | None]) -> None:
        """Forget an adapter. `users` are the adapters of all unfinished requests.

        Raises:
            InvalidParameterError: there is none of that name, or a request uses it.
        """
        adapter = self.find(name)
        if adapter is None or name in users:
            raise InvalidParameterError(
                f"the adapter {name!r:.100} is in use by unfinished requests; unload it when they have ended",
                parameter="lora_name",
            )
        assert self._executor is not None
        self._executor.unload_adapter(adapter.slot)
        del self._loaded[name]
