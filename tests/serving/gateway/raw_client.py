"""A client that speaks HTTP byte by byte, so that it can do it badly."""

from __future__ import annotations

import socket
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["RawClient"]


class RawClient:
    """One connection to a server."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect((parts.hostname, parts.port))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> RawClient:
        self.socket.sendall(data)
        return self

    def everything(self) -> bytes:
        """What the server sends until it closes; a reset is an end too."""
        received = b""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data

    def status(self) -> int:
        """Of the reply that ends with the connection; 0 = closed without one."""
        reply = self.everything()
        return int(reply.split(b" ", 2)[1]) if reply else 0
