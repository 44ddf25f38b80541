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
from glm_crush.serving.model_alias import ModelAlias, ModelAliases, model_of
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.serving.served_model import ServedModel, Watch
from glm_crush.serving.turn_guard import TurnGuard

__all__ = ["ServedModels"]


class ServedModels:
    """Models in the order in which they are listed; the first is the default one.

    Attributes:
        aliases: further names for them; one whose model is not served is not listed.
        encoders: the embedding models and rerankers beside them.
    """

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        aliases: ModelAliases | None = None,
        encoders: ServedEncoders | None = None,
    ) -> None:
        self.aliases = aliases or ModelAliases()
        self.encoders = ServedEncoders() if encoders is None else encoders
        self._models = {model.name: model for model in models}
        self._named: dict[str, tuple[ModelAlias, ServedModel, ServedModel]] = {}  # alias, its base, the two together
        self._num_users: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([*self._models.values(), *(self._model_of(alias) for alias in self._usable_aliases())])

    def names(self) -> list[str]:
        """What clients may call for."""
        return [*self._models, *(alias.name for alias in self._usable_aliases())]

    def is_alias(self, name: str) -> bool:
        """Whether this is another name of a model, and not one."""
        return name not in self._models and self.aliases.get(name) is not None

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
        if name in self._models:
            return self._models[name]
        alias = self.aliases.get(name) if name else None
        if alias is not None and alias.base in self._models:
            return self._model_of(alias)
        if not name or name == "default":
            return self.default
        raise ModelNotFoundError(f"the model {name!r:.100} is not served here; there is {', '.join(self.names())}")

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[ServedModel]:
        """The model a request names, counted as in use until the block ends. Raises as `find` does."""
        model = await self.find(name)
        base = model.name if model.name in self._models else self._named[model.name][1].name
        self._num_users[base] += 1
        try:
            yield model
        finally:
            self._num_users[base] -= 1

    def identity(self, name: str | None) -> tuple[str, str, bool] | None:
        """Name and fingerprint of the model that a request would get, and whether it is greedy by default.

        None if there is no such model, or what it is may change. Nothing is loaded for it.
        """
        model = self._models.get(name or "")
        if model is None:
            if name not in (None, "", "default") or not self._models or (name and self.aliases.get(name)):
                return None
            model = self.default
        if model.adapter is not None:
            return None  # another may come under its name
        guarded = "" if model.guard is None else model.guard.fingerprint()
        return model.name, model.fingerprint + guarded, model.default_params.temperature == 0

    def adapter(self, name: str) -> ServedModel | None:
        """The LoRA adapter served under this name."""
        model = self._models.get(name)
        return None if model is None or model.adapter is None else model

    def add_adapter(self, model: ServedModel) -> None:
        """Serve a LoRA adapter beside the model that it changes."""
        self._models = {**self._models, model.name: model}

    def remove_adapter(self, name: str) -> None:
        """Stop serving it."""
        self._models = {key: model for key, model in self._models.items() if key != name}

    def watch_generations(self, *watches: Watch) -> None:
        """Let `watches` see the generations of every model from now on."""
        self._models = {name: replace(model, watches=watches) for name, model in self._models.items()}

    def guard_turns(self, guard: TurnGuard) -> None:
        """Let `guard` check what goes into every model and what comes out, from now on."""
        self._models = {name: replace(model, guard=guard) for name, model in self._models.items()}

    def num_users(self, name: str) -> int:
        """How many requests hold the model of this name, or an alias of it, now."""
        return self._num_users[name]

    def num_all_users(self) -> int:
        """How many requests hold any model now."""
        return self._num_users.total()

    def _usable_aliases(self) -> list[ModelAlias]:
        """A model's own name counts more than an alias."""
        aliases = self.aliases.all()
        return [alias for alias in aliases if alias.base in self._models and alias.name not in self._models]

    def _model_of(self, alias: ModelAlias) -> ServedModel:
        """Made once: a template is compiled, and requests that begin alike must meet the same one."""
        base = self._models[alias.base]
        known = self._named.get(alias.name)
        if known is None or known[0] is not alias or known[1] is not base:
            known = (alias, base, model_of(alias, base))
            self._named[alias.name] = known
        return known[2]
