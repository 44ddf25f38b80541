"""The composition root of the server: routes over served models, behind one middleware.

Above: `server.py` (uvicorn) and the tests. Below: one adapter per protocol. Plain Starlette: the routes parse and
answer bytes themselves, and FastAPI would double the time it takes to start (docs/decisions/starlette.md).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import version as installed_version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from glm_crush.config import ApiSettings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.adapters import adapter_routes
from glm_crush.serving.anthropic.routes import ANTHROPIC_ERRORS, anthropic_routes
from glm_crush.serving.errors import ApiError, ErrorShapes
from glm_crush.serving.gateway.build import build_gateway
from glm_crush.serving.gateway.cors import CrossOrigin, WelcomePages
from glm_crush.serving.graphql.error_shape import GRAPHQL_ERRORS
from glm_crush.serving.health import health_routes
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.json_http import json_response
from glm_crush.serving.middleware import ApiMiddleware
from glm_crush.serving.model_pool.part import ModelPoolPart
from glm_crush.serving.ollama.routes import OLLAMA_ERRORS, ollama_routes
from glm_crush.serving.openai.routes import openai_routes
from glm_crush.serving.openai.stored import StoredApis
from glm_crush.serving.openapi import openapi_document
from glm_crush.serving.openapi_page import openapi_page
from glm_crush.serving.part import ServerPart
from glm_crush.serving.reloading.reloading import Reloading
from glm_crush.serving.routing import starlette_routes
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.stopping import Stopping
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.weights.store import ModelStore

__all__ = ["create_app"]


def create_app(
    models: ServedModels | Sequence[ServedModel],
    settings: ApiSettings,
    *,
    gateway_settings: GatewaySettings | None = None,
    database: LazyDatabase | None = None,
    store: ModelStore | None = None,
    parts: Sequence[ServerPart] = (),
    on_shutdown: Callable[[], None] | None = None,
    reloading: Reloading | None = None,
    stopping: Stopping | None = None,
) -> Starlette:
    """The ASGI application that serves `models`; the first is the default one.

    `on_shutdown` is called once after the last request, to stop the engines. Without a `database` nothing is stored,
    and there are no routes for stored objects and no keys but `api.key`; without a `store` no models are fetched.
    `parts` add theirs, the first one outermost. `reloading` is told which settings can change while the server
    runs; `stopping` lets administrators end it.

    Raises:
        ConfigError: settings that cannot be.
    """
    served = models if isinstance(models, ServedModels) else ServedModels(models)
    limits = gateway_settings or GatewaySettings()
    door = build_gateway(settings, limits, database)
    # What runs in the background is stopped before the gateway writes its last records.
    stored = None if database is None else StoredApis(served, database, settings)
    parts = [ModelPoolPart(served), *parts, door, *(part for part in (stored, reloading, stopping) if part is not None)]
    pages = WelcomePages(limits)
    if reloading is not None:
        reloading.add(pages.live_change(), *(change for part in parts for change in part.live_changes()))
    for part in parts:
        part.attach(door.gateway)
        part.administer(door.accounts)
    added = [route for part in parts for route in part.routes()]
    routes = [
        *openai_routes(served, settings),
        *adapter_routes(served),
        *anthropic_routes(served, settings),
        *ollama_routes(served, store),
        *added,
        *health_routes(served, stopping),
    ]
    caller = InProcessCaller(routes, door.gateway)
    for part in parts:
        part.connect(caller)
    documented = [endpoint for endpoint, _ in routes]

    @functools.cache
    def description() -> dict[str, Any]:
        return openapi_document(documented, installed_version("glm-crush"))

    # In a thread: the first time takes a second, and streams must not wait for it.
    async def document(_: Request) -> Response:
        return json_response(await asyncio.to_thread(description))

    async def page(_: Request) -> Response:
        return HTMLResponse(openapi_page(await asyncio.to_thread(description)))

    return Starlette(
        routes=[
            *starlette_routes(routes),
            *(route for part in parts for route in part.socket_routes()),
            Route("/openapi.json", document),
            Route("/docs", page),
        ],
        middleware=[
            Middleware(CrossOrigin, pages=pages),
            *(middleware for part in parts for middleware in part.middleware()),
            Middleware(
                ApiMiddleware,
                gateway=door.gateway,
                guard=pages.guard,
                max_body_bytes=settings.max_body_bytes,
                larger_bodies={} if database is None else {"/v1/files": database.settings.max_file_bytes + 2**20},
                timeout_seconds=limits.request_timeout_seconds,
                error_shapes=ErrorShapes({**ANTHROPIC_ERRORS, **OLLAMA_ERRORS, **GRAPHQL_ERRORS}),
            ),
            *(middleware for part in parts for middleware in part.inner_middleware()),
        ],
        exception_handlers={HTTPException: _raise_as_api_error},
        lifespan=_lifespan(parts, database, on_shutdown),
    )


def _lifespan(
    parts: Sequence[ServerPart], database: LazyDatabase | None, on_shutdown: Callable[[], None] | None
) -> Callable[[Starlette], AbstractAsyncContextManager[dict[str, Any]]]:
    def drain() -> None:
        for part in parts:
            part.drain()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as running:
            if database is not None:
                running.push_async_callback(database.close)  # after all parts have written what they had to
            for part in parts:
                await running.enter_async_context(part.running())
            yield {"drain": drain}
        if on_shutdown is not None:
            on_shutdown()

    return lifespan


async def _raise_as_api_error(_: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the shape of every other error."""
    assert isinstance(error, HTTPException)
    messages = {404: "there is no such path here; see /docs", 405: "this path does not take this method; see /docs"}
    message = messages.get(error.status_code, str(error.detail))
    allowed = (error.headers or {}).get("Allow")
    headers = {} if allowed is None else {"allow": ", ".join(sorted(allowed.split(", ")))}
    raise ApiError(error.status_code, message, code="not_found", headers=headers)
