"""Which web pages a browser lets call the server (Fetch standard, section "CORS protocol").

Above: `app.py`. Below: Starlette's middleware, which answers preflights before a key is asked for. Credentials other
than the key in a header (cookies) are never allowed.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.browser_guard import names_in

__all__ = ["cors_middleware"]

_PREFLIGHT_SECONDS = 600
_EXPOSED = (
    *("x-request-id", "openai-processing-ms", "retry-after", "retry-after-ms"),
    *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)


def cors_middleware(settings: GatewaySettings) -> list[Middleware]:
    """The middleware for `gateway.cors_origins`; none if no page may call."""
    origins = sorted(names_in(settings.cors_origins))
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED),
            max_age=_PREFLIGHT_SECONDS,
        )
    ]
