"""The composition root of the server: routes over served models, behind one middleware.

Above: `server.py` (uvicorn) and the tests. Below: one adapter per protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version as installed_version

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.config import ApiSettings
from glm_crush.errors import GlmError
from glm_crush.serving.errors import ApiError
from glm_crush.serving.health import Health
from glm_crush.serving.middleware import ApiMiddleware
from glm_crush.serving.openai.chat import ChatCompletions
from glm_crush.serving.openai.completions import Completions
from glm_crush.serving.openai.models import Models
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest, GenerationRequest
from glm_crush.serving.served_model import ServedModel

__all__ = ["create_app"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    models: Sequence[ServedModel],
    settings: ApiSettings,
    *,
    on_shutdown: Callable[[], None] | None = None,
) -> FastAPI:
    """The ASGI application that serves `models`; the first is the default one.

    `on_shutdown` is called once after the last request, to stop the engines.
    """
    by_name = {model.name: model for model in models}
    app = FastAPI(
        title="GLM-Crush",
        version=installed_version("glm-crush"),
        docs_url="/docs",
        redoc_url=None,
        lifespan=_lifespan(on_shutdown),
    )
    health = Health(by_name)
    chat = ChatCompletions(by_name, ping_interval_seconds=settings.ping_interval_seconds)
    completions = Completions(by_name, ping_interval_seconds=settings.ping_interval_seconds)
    catalogue = Models(by_name)
    app.add_api_route("/health", health.health, response_class=Response)
    app.add_api_route("/ready", health.ready, response_class=Response)
    app.add_api_route("/version", health.version, response_class=Response)
    app.add_api_route("/v1/models", catalogue.list, response_class=Response)
    app.add_api_route("/v1/models/{model_id:path}", catalogue.retrieve, response_class=Response)
    for path, create, request_class in (
        ("/v1/chat/completions", chat.create, ChatRequest),
        ("/v1/completions", completions.create, CompletionRequest),
    ):
        app.add_api_route(
            path, create, methods=["POST"], response_class=Response, openapi_extra=_body_schema(request_class)
        )
    app.add_exception_handler(HTTPException, _raise_as_api_error)
    for error_class in (GlmError, ApiError):
        app.add_exception_handler(error_class, _raise_again)
    app.add_middleware(ApiMiddleware, key=settings.key, max_body_bytes=settings.max_body_bytes)
    return app


def _lifespan(on_shutdown: Callable[[], None] | None) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if on_shutdown is not None:
            on_shutdown()

    return lifespan


def _body_schema(request_class: type[GenerationRequest]) -> dict[str, object]:
    """The request body for the OpenAPI page; the routes parse the bytes themselves to give our own errors."""
    schema = request_class.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _raise_as_api_error(_: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405 in the shape of every other error."""
    assert isinstance(error, HTTPException)
    messages = {404: "there is no such path here; see /docs", 405: "this path does not take this method; see /docs"}
    raise ApiError(error.status_code, messages.get(error.status_code, str(error.detail)), code="not_found")


async def _raise_again(_: Request, error: Exception) -> Response:
    """Errors are answered in one place, the middleware."""
    raise error
