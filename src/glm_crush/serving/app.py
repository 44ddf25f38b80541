"""The composition root of the server: routes over served models, behind one middleware.

Above: `server.py` (uvicorn) and the tests. Below: one adapter per protocol. Plain Starlette: the routes parse and
answer bytes themselves, and FastAPI would double the time it takes to start (docs/decisions/starlette.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version as installed_version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from glm_crush.config import ApiSettings
from glm_crush.serving.errors import ApiError
from glm_crush.serving.health import Health
from glm_crush.serving.middleware import ApiMiddleware
from glm_crush.serving.openai.chat import ChatCompletions
from glm_crush.serving.openai.completions import Completions
from glm_crush.serving.openai.exchange import json_response
from glm_crush.serving.openai.models import Models
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openapi import Endpoint, openapi_document, openapi_page
from glm_crush.serving.served_model import ServedModel

__all__ = ["create_app"]

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    models: Sequence[ServedModel],
    settings: ApiSettings,
    *,
    on_shutdown: Callable[[], None] | None = None,
) -> Starlette:
    """The ASGI application that serves `models`; the first is the default one.

    `on_shutdown` is called once after the last request, to stop the engines.
    """
    routes = _routes({model.name: model for model in models}, settings)
    documented = [endpoint for endpoint, _ in routes]

    async def document(_: Request) -> Response:
        return json_response(openapi_document(documented, installed_version("glm-crush")))

    async def page(_: Request) -> Response:
        return HTMLResponse(openapi_page(openapi_document(documented, installed_version("glm-crush"))))

    return Starlette(
        routes=[
            # A model's name may hold slashes.
            *(Route(e.path.replace("}", ":path}"), handler, methods=[e.method]) for e, handler in routes),
            Route("/openapi.json", document),
            Route("/docs", page),
        ],
        middleware=[Middleware(ApiMiddleware, key=settings.key, max_body_bytes=settings.max_body_bytes)],
        exception_handlers={HTTPException: _raise_as_api_error},
        lifespan=_lifespan(on_shutdown),
    )


def _routes(models: dict[str, ServedModel], settings: ApiSettings) -> list[tuple[Endpoint, Handler]]:
    health = Health(models)
    catalogue = Models(models)
    chat = ChatCompletions(models, ping_interval_seconds=settings.ping_interval_seconds)
    completions = Completions(models, ping_interval_seconds=settings.ping_interval_seconds)
    return [
        (Endpoint("POST", "/v1/chat/completions", "Answer a conversation.", ChatRequest, True), chat.create),
        (Endpoint("POST", "/v1/completions", "Complete prompts.", CompletionRequest, True), completions.create),
        (Endpoint("GET", "/v1/models", "The models served."), catalogue.list),
        (Endpoint("GET", "/v1/models/{model_id}", "One model."), catalogue.retrieve),
        (Endpoint("GET", "/health", "The process answers."), health.health),
        (Endpoint("GET", "/ready", "Requests can be answered; 503 otherwise."), health.ready),
        (Endpoint("GET", "/version", "The installed version."), health.version),
    ]


def _lifespan(on_shutdown: Callable[[], None] | None) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
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
