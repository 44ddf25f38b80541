"""The models of a server: what it serves, what is in its memory, and the adapters beside them.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from glm_crush.client.call import Answer, Call, given, place, read_as, read_rows
from glm_crush.client.result import Result

__all__ = [
    "LoadedModel",
    "LoadedModels",
    "Model",
    "RunningModel",
    "get",
    "list_models",
    "load",
    "load_adapter",
    "loaded",
    "pin",
    "running",
    "state",
    "unload",
    "unload_adapter",
    "unpin",
]


class _Status(Result, frozen=True):
    value: str = "loaded"


class Model(Result, frozen=True):
    """One served model: its context and what may be asked of it; `dimensions` of an embedding model."""

    id: str
    created: int = 0
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    capabilities: Mapping[str, bool] = {}
    dimensions: int | None = None
    status: _Status = _Status()


class RunningModel(Result, frozen=True):
    """A model that answers now, as Ollama's API tells it; `expires_at` in ISO 8601, in the year 9999 for "stays"."""

    name: str
    size: int = 0
    context_length: int | None = None
    expires_at: str = ""


class _Running(Result, frozen=True):
    models: tuple[RunningModel, ...]


class LoadedModel(Result, frozen=True):
    """A model's place in memory; `expires_in_seconds` None = it stays, or is in use, or is not loaded."""

    name: str
    state: str
    kind: str | None = None
    pinned: bool = False
    is_default: bool = False
    weight_bytes: int | None = None
    cache_bytes: int | None = None
    num_bytes: int | None = None
    context_length: int | None = None
    num_users: int = 0
    idle_seconds: float | None = None
    expires_in_seconds: float | None = None
    adapters: tuple[str, ...] = ()


class Memory(Result, frozen=True):
    """Bytes of all models; `budget_bytes` None = no limit is set."""

    used_bytes: int = 0
    pinned_bytes: int = 0
    budget_bytes: int | None = None


class LoadedModels(Result, frozen=True):
    """What is in memory, and what could be."""

    data: tuple[LoadedModel, ...]
    memory: Memory = Memory()


def list_models() -> Call[tuple[Model, ...]]:
    """The models that may be named in requests."""
    return Call(method="GET", path="/v1/models", parse=read_rows(Model))


def get(name: str) -> Call[Model]:
    """One model. Raises ModelNotFoundError when it is not served."""
    return Call(method="GET", path=place("v1", "models", name), parse=read_as(Model))


def running() -> Call[tuple[RunningModel, ...]]:
    """The models that are in memory; for keys with the scope models."""
    read = read_as(_Running)

    def models(answer: Answer) -> tuple[RunningModel, ...]:
        return read(answer).models

    return Call(method="GET", path="/api/ps", parse=models)


def loaded() -> Call[LoadedModels]:
    """Every model's place in memory; for keys with the scope manage."""
    return Call(method="GET", path="/admin/v1/models", parse=read_as(LoadedModels))


def state(name: str) -> Call[LoadedModel]:
    """One model's place in memory; for keys with the scope manage."""
    return Call(method="GET", path=place("admin", "v1", "models", name), parse=read_as(LoadedModel))


def load(name: str, *, pin: bool | None = None, keep_alive: float | str | None = None) -> Call[LoadedModel]:
    """Load a model, and wait until it is; for keys with the scope manage.

    Args:
        name: of a served or stored model.
        pin: keep it, whatever else is asked for.
        keep_alive: how long it stays without requests: seconds, or a time such as "5m"; -1 = always.
    """
    body = given(pin=pin, keep_alive=keep_alive)
    return Call(method="POST", path=_path(name, "load"), body=body, parse=read_as(LoadedModel))


def unload(name: str) -> Call[LoadedModel]:
    """Take a model out of memory; requests that run end first. For keys with the scope manage."""
    return Call(method="POST", path=_path(name, "unload"), parse=read_as(LoadedModel))


def pin(name: str) -> Call[LoadedModel]:
    """Keep a model in memory; it is loaded if it is not. For keys with the scope manage."""
    return Call(method="PUT", path=_path(name, "pin"), parse=read_as(LoadedModel))


def unpin(name: str) -> Call[LoadedModel]:
    """Let a model go when room is needed. For keys with the scope manage."""
    return Call(method="DELETE", path=_path(name, "pin"), parse=read_as(LoadedModel))


def load_adapter(name: str, path: str, *, base_model: str | None = None) -> Call[None]:
    """Serve a LoRA adapter, a folder on the server, as a model of its own. For keys with the scope manage."""
    body = {"lora_name": name, "lora_path": path, **given(base_model_name=base_model)}
    return Call(method="POST", path="/v1/load_lora_adapter", body=body, parse=_nothing, repeatable=False)


def unload_adapter(name: str) -> Call[None]:
    """Stop serving an adapter. For keys with the scope manage."""
    body = {"lora_name": name}
    return Call(method="POST", path="/v1/unload_lora_adapter", body=body, parse=_nothing, repeatable=False)


def _path(name: str, verb: Literal["load", "unload", "pin"]) -> str:
    return place("admin", "v1", "models", name, verb)


def _nothing(_: Answer) -> None:
    """The answer says only that it is done."""
