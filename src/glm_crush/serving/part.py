"""A part of the server that the composition root can put in or leave out: stored objects, gateway, observability.

Above: `app.py`, which knows nothing else of them. Below: Starlette's types.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from glm_crush.serving.routing import ApiRoute

if TYPE_CHECKING:
    from glm_crush.serving.gateway.accounts import Accounts
    from glm_crush.serving.gateway.gateway import Gateway
    from glm_crush.serving.in_process import InProcessCaller
    from glm_crush.serving.reloading.change import LiveChange

__all__ = ["ServerPart"]


class ServerPart:
    """Routes, middleware and what runs while the server does; a subclass gives what it has."""

    def attach(self, gateway: Gateway) -> None:
        """Called once, before anything runs, with what admits requests."""

    def administer(self, accounts: Accounts) -> None:
        """Called once, before anything runs, with what administrators change and read."""

    def connect(self, caller: InProcessCaller) -> None:
        """Called once, before anything runs, with a way to call the application's routes."""

    def routes(self) -> Sequence[ApiRoute]:
        """Routes of its own."""
        return ()

    def socket_routes(self) -> Sequence[BaseRoute]:
        """Routes that are no HTTP requests: they ask the gateway in their scope's state themselves."""
        return ()

    def middleware(self) -> Sequence[Middleware]:
        """What every HTTP request passes on its way in, outermost first; around the error bodies."""
        return ()

    def inner_middleware(self) -> Sequence[Middleware]:
        """What admitted requests pass just before the routes, outermost first; its exceptions become error bodies."""
        return ()

    def live_changes(self) -> Sequence[LiveChange]:
        """Settings of its own that can change while the server runs."""
        return ()

    def drain(self) -> None:
        """Called when the server is told to stop: take nothing new; what runs may end before `running` is left."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Entered before the first request, left after the last one."""
        return _nothing()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
