"""A real socket server that fails on purpose: each connection plays the next scene."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["CLOSE", "FlakyServer", "answer", "flaky_server", "stream"]

CLOSE = b""
"""The connection is closed without an answer."""


def answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """One whole answer."""
    content = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Scripted", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def stream(*events: str, ended: bool = True) -> bytes:
    """A stream of events; one that has not ended breaks off in the middle of a chunk."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    data = "".join(f"data: {event}\n\n" for event in events).encode()
    return head + f"{len(data):x}\r\n".encode() + data + (b"\r\n0\r\n\r\n" if ended else b"\r\n")


@dataclass
class FlakyServer:
    """Where it is, and the requests it got."""

    url: str
    requests: list[bytes] = field(default_factory=list)

    def bodies(self) -> list[object]:
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]

    def headers(self, name: str) -> list[str]:
        lines = [request.partition(b"\r\n\r\n")[0].decode().split("\r\n") for request in self.requests]
        return [line.partition(": ")[2] for head in lines for line in head if line.lower().startswith(f"{name}:")]


@contextmanager
def flaky_server(scenes: Sequence[bytes]) -> Iterator[FlakyServer]:
    """Plays the scenes, then refuses connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = FlakyServer(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def play() -> None:
        for scene in scenes:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                server.requests.append(_request(connection))
                connection.sendall(scene)
        listener.close()

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.close()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
