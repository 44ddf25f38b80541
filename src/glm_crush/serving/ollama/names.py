"""Ollama's names of models: `name:latest` and `name` are the same."""

from __future__ import annotations

from collections.abc import Callable

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.served_models import ServedModels

__all__ = ["given_name", "known_encoder", "known_name"]

_LATEST = ":latest"


def known_name(models: ServedModels, name: str) -> str:
    """The name as it is known here, with or without `:latest`; unchanged when it is not known."""
    return _known(lambda known: known in models, name)


def known_encoder(models: ServedModels, name: str) -> str:
    """The same for an embedding model or a reranker."""
    return _known(models.pool.has, name)


def _known(is_known: Callable[[str], bool], name: str) -> str:
    if is_known(name):
        return name
    other = name.removesuffix(_LATEST) if name.endswith(_LATEST) else name + _LATEST
    return other if is_known(other) else name


def given_name(model: str | None, name: str | None) -> str:
    """The model of a request in which old clients call it `name`. Raises InvalidParameterError for none or two."""
    if model is not None and name is not None and model != name:
        raise InvalidParameterError(f"model is {model!r:.80} and name is {name!r:.80}; give one", parameter="name")
    given = model or name
    if given is None:
        raise InvalidParameterError("model is required", parameter="model")
    return given
