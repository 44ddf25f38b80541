"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them: adapters served as models of their own.

Above: `app.py`, `glm serve --lora`. Below: `ServedModels`, and the engine that runs a model with its adapters.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from glm_crush.errors import InvalidParameterError, ModelError, ModelNotFoundError
from glm_crush.serving.json_http import StrictModel, read_request
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_model import AdapterEngine, ServedModel
from glm_crush.serving.served_models import ServedModels

__all__ = ["LoraAdapters", "adapter_routes"]


class LoadLoraRequest(StrictModel):
    """Which adapter, and what clients call it."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str = Field(min_length=1, max_length=4096)
    base_model_name: str | None = None


class UnloadLoraRequest(StrictModel):
    """Which adapter; `lora_int_id` is vLLM's number for it and is not looked at."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_int_id: int | None = None


def adapter_routes(models: ServedModels) -> list[ApiRoute]:
    """What changes the adapters of a running server."""
    adapters = LoraAdapters(models)
    return [
        (
            Endpoint(
                "POST",
                "/v1/load_lora_adapter",
                "Serve a LoRA adapter.",
                LoadLoraRequest,
                reply=str,
                media_type="text/plain",
            ),
            adapters.post_load,
        ),
        (
            Endpoint(
                "POST",
                "/v1/unload_lora_adapter",
                "Stop serving it.",
                UnloadLoraRequest,
                reply=str,
                media_type="text/plain",
            ),
            adapters.post_unload,
        ),
    ]


class LoraAdapters:
    """Loads and unloads adapters, one at a time."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models
        self._lock = asyncio.Lock()

    async def post_load(self, http: Request) -> Response:
        """Load an adapter and list it as a model."""
        request = await read_request(LoadLoraRequest, http)
        async with self._lock, self._models.use(request.base_model_name) as base:
            await asyncio.to_thread(self.load, request.lora_name, request.lora_path, base)
        return PlainTextResponse(f"Success: LoRA adapter '{request.lora_name}' added successfully.")

    async def post_unload(self, http: Request) -> Response:
        """Unload an adapter; 404 if there is none of that name."""
        request = await read_request(UnloadLoraRequest, http)
        async with self._lock:
            await asyncio.to_thread(self.unload, request.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{request.lora_name}' removed successfully.")

    def load(self, name: str, path: str | Path, base: ServedModel) -> None:
        """Serve `base` with the adapter in a folder under a name; blocks.

        Raises:
            InvalidParameterError: the name is taken, or the adapter is none for this model; says why.
        """
        if name == "default" or name in self._models or name in self._models.encoders:
            raise InvalidParameterError(
                f"lora_name is {name!r:.100}, which is served already; choose another name", parameter="lora_name"
            )
        engine = base.engine
        if base.adapter is not None or not isinstance(engine, AdapterEngine):
            raise InvalidParameterError(
                f"{base.name} takes no adapters; name a base model that does", parameter="base_model_name"
            )
        try:
            engine.load_adapter(name, path)
        except ModelError as error:
            raise InvalidParameterError(f"lora_path: {error}", parameter="lora_path") from error
        self._models.add_adapter(name, path, base)

    def unload(self, name: str) -> None:
        """Stop serving an adapter; blocks.

        Raises:
            ModelNotFoundError: there is none of that name.
            InvalidParameterError: requests use it.
        """
        if not self._models.has_adapter(name):
            raise ModelNotFoundError(f"there is no adapter {name!r:.100} here; GET /v1/models lists them")
        model = self._models.adapter(name)
        if model is not None:
            assert isinstance(model.engine, AdapterEngine)
            model.engine.unload_adapter(name)
        self._models.remove_adapter(name)
