"""Which web pages a browser lets call the server (Fetch standard, section "CORS protocol").

Above: `app.py`. Below: Starlette's middleware, which answers preflights before a key is asked for. Credentials other
than the key in a header (cookies) are never allowed.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from glm_crush.config import Settings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.browser_guard import BrowserGuard, names_in
from glm_crush.serving.reloading.change import Commit, LiveChange

__all__ = ["CrossOrigin", "WelcomePages"]

_PREFLIGHT_SECONDS = 600
_EXPOSED = (
    *("x-request-id", "openai-processing-ms", "retry-after", "retry-after-ms"),
    *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)


class WelcomePages:
    """Which web pages may call, and by which names: one owner for the two that ask.

    Attributes:
        guard: asks for callers without a key. origins: of pages to which browsers give replies.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.guard = BrowserGuard()
        self.origins: tuple[str, ...] = ()
        self._adopt(settings)

    def live_change(self) -> LiveChange:
        """Both lists can change while the server runs."""

        def prepare(settings: Settings) -> Commit:
            return lambda: self._adopt(settings.gateway)

        return LiveChange(frozenset({"gateway.cors_origins", "gateway.hosts"}), prepare)

    def _adopt(self, settings: GatewaySettings) -> None:
        origins = names_in(settings.cors_origins)
        self.guard.allow(names_in(settings.hosts), origins)
        self.origins = tuple(sorted(origins))


class CrossOrigin:
    """Starlette's middleware for the pages that are welcome now; out of the way if none is."""

    def __init__(self, app: ASGIApp, pages: WelcomePages) -> None:
        self._app = app
        self._pages = pages
        self._for: tuple[str, ...] = ()
        self._answer: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if self._pages.origins != self._for:
            self._for = self._pages.origins
            self._answer = self._middleware() if self._for else self._app
        await self._answer(scope, receive, send)

    def _middleware(self) -> ASGIApp:
        return CORSMiddleware(
            self._app,
            allow_origins=self._for,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED),
            max_age=_PREFLIGHT_SECONDS,
        )
