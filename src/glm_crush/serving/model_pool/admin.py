"""/admin/v1/models: which models are in memory; load, unload and pin them. For callers with the scope manage, as all
that changes models.

Above: `part`. Below: the pool. Names of models hold slashes and colons, and so may the paths.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError, ModelNotFoundError
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.keep_alive import keep_alive_seconds
from glm_crush.serving.model_pool.residency import Slot
from glm_crush.serving.model_pool.resident import Resident
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels

__all__ = ["LoadRequest", "model_admin_routes"]

_STATES = {"preparing": "loading", "waiting": "loading", "loading": "loading", "loaded": "loaded"}


class LoadRequest(StrictModel):
    """How to keep a model that is loaded: for ever, or for how long after its last request."""

    pin: bool | None = None
    keep_alive: str | float | None = None


def model_admin_routes(models: ServedModels) -> list[ApiRoute]:
    """The routes over the server's pool."""
    admin = _Admin(models)
    all_models, model = "/admin/v1/models", "/admin/v1/models/{model}"
    load = Endpoint(
        "POST", f"{model}/load", "Load a model; answers when it is loaded.", LoadRequest, optional_body=True
    )
    return [
        (load, admin.load),
        (Endpoint("POST", f"{model}/unload", "Unload a model; answers when it is gone."), admin.unload),
        (Endpoint("PUT", f"{model}/pin", "Keep a model in memory; loads it."), admin.pin),
        (Endpoint("DELETE", f"{model}/pin", "Let a model go when its time has come."), admin.unpin),
        (Endpoint("GET", all_models, "The models, loaded or not, and their memory."), admin.list),
        (Endpoint("GET", model, "One model."), admin.retrieve),
    ]


class _Admin:
    def __init__(self, models: ServedModels) -> None:
        self._models = models
        self._pool = models.pool

    async def list(self, _: Request) -> Response:
        residency = self._pool.residency
        names = dict.fromkeys([slot.name for slot in residency] + [model.name for model in self._pool.loadable()])
        memory = {
            "budget_bytes": residency.budget_bytes,
            "used_bytes": residency.used_bytes,
            "pinned_bytes": residency.pinned_bytes(),
        }
        rows = [self._row(name) for name in names]
        return json_response({"object": "list", "data": rows, "memory": memory})

    async def retrieve(self, http: Request) -> Response:
        return self._reply(_name(http))

    async def load(self, http: Request) -> Response:
        name = _name(http)
        request = await read_request(LoadRequest, http) if await http.body() else LoadRequest()
        keep_alive = None if request.keep_alive is None else keep_alive_seconds(request.keep_alive)
        if keep_alive == 0:
            raise InvalidParameterError("keep_alive is 0; POST .../unload unloads a model", parameter="keep_alive")
        await self._pool.load(name, pinned=request.pin, keep_alive=keep_alive)
        return self._reply(name)

    async def unload(self, http: Request) -> Response:
        name = _name(http)
        await self._pool.unload(name)
        return self._reply(name)

    async def pin(self, http: Request) -> Response:
        name = _name(http)
        await self._pool.load(name, pinned=True)
        return self._reply(name)

    async def unpin(self, http: Request) -> Response:
        name = _name(http)
        self._pool.pin(name, False)
        return self._reply(name)

    def _reply(self, name: str) -> Response:
        if not self._pool.has(name) and self._pool.kind(name) is None:
            raise ModelNotFoundError(f"the model {name!r:.100} is not served here; GET /admin/v1/models lists them")
        return json_response(self._row(name))

    def _slot(self, name: str) -> Slot | None:
        """The one that requests get; else one that is leaving."""
        leaving = (slot for slot in self._pool.residency if slot.name == name)
        return self._pool.residency.get(name) or next(leaving, None)

    def _row(self, name: str) -> dict[str, Any]:
        pool, slot = self._pool, self._slot(name)
        resident = pool.resident(name)
        state = "unloaded" if slot is None else "unloading" if slot.is_leaving else _STATES[slot.state]
        idle = slot if state == "loaded" and slot is not None and slot.num_users == 0 else None
        return {
            "name": name,
            "state": state,
            "kind": pool.kind(name),
            "pinned": slot is not None and slot.pinned,
            "is_default": name == self._models.default_name_or_none,
            "weight_bytes": None if resident is None else resident.weight_bytes,
            "cache_bytes": None if resident is None else resident.cache_bytes,
            "num_bytes": None if slot is None else slot.num_bytes,
            "context_length": None if resident is None else _context_length(resident),
            "num_users": 0 if slot is None else slot.num_users,
            "idle_seconds": None if idle is None else round(time.monotonic() - idle.last_used, 3),
            "expires_in_seconds": None if idle is None else pool.expires_in(name),
            "adapters": self._models.adapters_of(name),
        }


def _context_length(resident: Resident) -> int:
    served = resident.served
    return served.context_length if isinstance(served, ServedModel) else served.encoder.max_length


def _name(http: Request) -> str:
    return str(http.path_params["model"])
