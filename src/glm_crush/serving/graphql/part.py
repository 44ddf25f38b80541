"""`/graphql` as a part of the server: GET and POST, and WebSockets.

Above: `glm serve`. Below: Strawberry and graphql-core, imported in a thread when the first request comes: they take
half a second, which nobody who does not use them should wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket
from typing_extensions import TypedDict

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.gateway.accounts import Accounts
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from glm_crush.serving.graphql.http import HttpEndpoint
    from glm_crush.serving.graphql.operation import Operations

__all__ = ["GraphqlPart"]

_PATH = "/graphql"
_TEXT: dict[str, Any] = {"type": "string"}
_QUERY = {"query": _TEXT, "variables": _TEXT, "operationName": _TEXT}


class GraphqlBody(BaseModel):
    """POST /graphql."""

    query: str
    variables: dict[str, object] | None = None
    operation_name: str | None = Field(None, alias="operationName")
    extensions: dict[str, object] | None = None


class GraphqlReply(TypedDict):
    """The response to an operation."""

    data: NotRequired[dict[str, object] | None]
    errors: NotRequired[list[dict[str, object]]]


class GraphqlPart(ServerPart):
    """GraphQL over the served models.

    Args:
        ping_interval_seconds: silence after which a stream gives a sign of life.
        init_timeout_seconds: how long a WebSocket client may take to introduce itself.
    """

    def __init__(
        self,
        models: ServedModels,
        settings: GraphqlSettings,
        *,
        ping_interval_seconds: float = 15.0,
        init_timeout_seconds: float = 10.0,
    ) -> None:
        self._models = models
        self._settings = settings
        self._ping_interval = ping_interval_seconds
        self._init_timeout = init_timeout_seconds
        self._accounts: Accounts | None = None
        self._loading = asyncio.Lock()
        self._draining = asyncio.Event()
        self._operations: Operations | None = None
        self._http: HttpEndpoint | None = None

    def administer(self, accounts: Accounts) -> None:
        """Administrators' fields work with them."""
        self._accounts = accounts

    def drain(self) -> None:
        """Connections end when the operations that run on them have."""
        self._draining.set()

    def routes(self) -> list[ApiRoute]:
        """The path by HTTP."""
        post = Endpoint("POST", _PATH, "A GraphQL operation.", GraphqlBody, True, "graphql", GraphqlReply)
        get = Endpoint(
            "GET", _PATH, "A GraphQL query, in the URL.", dialect="graphql", reply=GraphqlReply, query=_QUERY
        )
        return [(post, self._answer), (get, self._answer)]

    def socket_routes(self) -> Sequence[BaseRoute]:
        """The path by WebSocket."""
        return [WebSocketRoute(_PATH, self._serve)]

    async def _answer(self, http: Request) -> Response:
        await self._load()
        assert self._http is not None
        return await self._http.answer(http)

    async def _serve(self, socket: WebSocket) -> None:
        operations = await self._load()
        from glm_crush.serving.graphql.connection import Connection

        assert self._accounts is not None, "the application tells its accounts"
        connection = Connection(
            socket,
            operations,
            self._models,
            self._accounts,
            self._draining,
            max_operations=self._settings.max_operations,
            init_timeout_seconds=self._init_timeout,
        )
        await connection.run()

    async def _load(self) -> Operations:
        async with self._loading:
            if self._operations is None:
                assert self._accounts is not None, "the application tells its accounts"
                operations = await asyncio.to_thread(_make_operations, self._settings)
                from glm_crush.serving.graphql.http import HttpEndpoint

                self._http = HttpEndpoint(
                    operations, self._models, self._accounts, ping_interval_seconds=self._ping_interval
                )
                self._operations = operations
            return self._operations


def _make_operations(settings: GraphqlSettings) -> Operations:
    from glm_crush.serving.graphql import connection, http  # noqa: F401 (imported here, off the event loop)
    from glm_crush.serving.graphql.operation import Operations

    return Operations(settings)
