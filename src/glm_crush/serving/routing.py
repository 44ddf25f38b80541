"""Routes as each protocol adapter hands them to the application, and what a request holds until it is answered.

Above: `app.py`. Below: Starlette. An adapter's list of `ApiRoute` is all that the application knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from glm_crush.serving.middleware import Receive, Scope, Send
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels

__all__ = ["ApiRoute", "Handler", "hold_model", "starlette_routes"]

_MODEL = re.compile(r"{(model|model_id)}")

Handler = Callable[[Request], Awaitable[Response]]
ApiRoute = tuple[Endpoint, Handler]


def starlette_routes(routes: Iterable[ApiRoute]) -> list[Route]:
    """The same routes for Starlette, one for each path, so that a 405 names all its methods.

    Names of models may hold slashes; nothing else that stands in a path does.
    """
    handlers: dict[str, dict[str, Handler]] = {}
    for endpoint, handler in routes:
        handlers.setdefault(endpoint.path, {})[endpoint.method] = handler
    return [
        Route(_MODEL.sub(r"{\1:path}", path), _Holding(path, by_method), methods=list(by_method))
        for path, by_method in handlers.items()
    ]


async def hold_model(
    models: ServedModels, name: str | None, http: Request, *, keep_alive: float | None = None
) -> ServedModel:
    """The model a request names, in use until the whole response has been sent, however long it streams.

    Raises: as `ServedModels.use`.
    """
    held: AsyncExitStack = http.scope["glm_crush.held"]
    return await held.enter_async_context(models.use(name, keep_alive=keep_alive))


class _Holding:
    """A path's handlers as an ASGI application that lets go of what the request holds once its response is sent."""

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["glm_crush.route"] = self._path
        async with AsyncExitStack() as held:
            scope["glm_crush.held"] = held
            handler = self._handlers.get(scope["method"]) or self._handlers["GET"]  # HEAD is GET without the body
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)
