"""uvicorn's WebSocket protocol, but a socket whose application ends it in order is left to it when the server stops.

Above: `http_server.py`. Below: uvicorn, which else closes every socket at once and with it whatever it carries.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["DrainingSocket", "ends_in_order"]

_MARK = "glm_crush.ends_in_order"


def ends_in_order(scope: MutableMapping[str, Any]) -> None:
    """Say that the application of this socket closes it by itself soon after the server has begun to stop."""
    scope[_MARK] = True


class DrainingSocket(WebSocketsSansIOProtocol):
    """One socket."""

    def shutdown(self) -> None:
        """Called when the server begins to stop."""
        if not (self.handshake_complete and self.scope.get(_MARK)):
            super().shutdown()
