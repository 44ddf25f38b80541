"""The models that the server answers with, by name.

Above: the protocol adapters. Below: `ServedModel`. A model is held with `use` for as long as a request needs it, so
that whoever loads and unloads models knows which are in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

from glm_crush.errors import ModelNotFoundError
from glm_crush.serving.served_model import ServedModel, Watch

__all__ = ["ServedModels"]


class ServedModels:
    """Models in the order in which they are listed; the first is the default one."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._models = {model.name: model for model in models}
        self._num_users: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def names(self) -> list[str]:
        """What clients may call for."""
        return list(self._models)

    @property
    def default(self) -> ServedModel:
        """The model of requests that name none.

        Raises:
            ModelNotFoundError: nothing is served.
        """
        for model in self._models.values():
            return model
        raise ModelNotFoundError("no model is served here; start the server with one: `glm serve MODEL`")

    async def find(self, name: str | None) -> ServedModel:
        """The model a request names; no name and "default" are the default one.

        Raises:
            ModelNotFoundError: this server has no model of that name.
        """
        if not name or (name == "default" and name not in self._models):
            return self.default
        if name not in self._models:
            raise ModelNotFoundError(f"the model {name!r} is not served here; there is {', '.join(self._models)}")
        return self._models[name]

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[ServedModel]:
        """The model a request names, counted as in use until the block ends. Raises as `find` does."""
        model = await self.find(name)
        self._num_users[model.name] += 1
        try:
            yield model
        finally:
            self._num_users[model.name] -= 1

    def identity(self, name: str | None) -> tuple[str, str, bool] | None:
        """Name and fingerprint of the model that a request would get, and whether it is greedy by default.

        None if there is no such model. Nothing is loaded for it.
        """
        model = self._models.get(name or "")
        if model is None:
            if name not in (None, "", "default") or not self._models:
                return None
            model = self.default
        return model.name, model.fingerprint, model.default_params.temperature == 0

    def watch_generations(self, *watches: Watch) -> None:
        """Let `watches` see the generations of every model from now on."""
        self._models = {name: replace(model, watches=watches) for name, model in self._models.items()}

    def num_users(self, name: str) -> int:
        """How many requests hold the model of this name now."""
        return self._num_users[name]
