"""uvicorn's WebSocket protocol, but a socket whose application ends it in order is left to it when the server stops.

Above: `http_server.py`. Below: uvicorn, which else closes every socket at once and with it whatever it carries.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from glm_crush.serving.orderly_end import is_to_end_in_order

__all__ = ["DrainingSocket"]


class DrainingSocket(WebSocketsSansIOProtocol):
    """One socket."""

    def shutdown(self) -> None:
        """Called when the server begins to stop."""
        if not (self.handshake_complete and is_to_end_in_order(self.scope)):
            super().shutdown()
