"""A web server on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What a handler of one path does with one request.
Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; answers are written with `reply` or by hand."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.web.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        answer = server.web.answers.get(self.path.partition("?")[0])
        if answer is None:
            self.reply(404, b"not found")
        else:
            answer(self)

    def reply(self, status: int, body: bytes, *, cut: int | None = None, **headers: str) -> None:
        """Send a response; with `cut`, close the connection after so many bytes of the body."""
        self.send_response(status)
        headers.setdefault("content_length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, *args: object) -> None:
        """Keep the test output clean."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: Web

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is nothing to report."""
        if not isinstance(sys.exception(), (ConnectionError, ValueError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@dataclass
class Web:
    """What the server offers and what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def file(
        self, path: str, body: bytes, *, ranges: bool = True, etag: str = '"v1"', cuts: tuple[int, ...] = ()
    ) -> None:
        """Serve a file; the first requests are cut after so many bytes each."""
        left = list(cuts)

        def answer(request: Request) -> None:
            cut = left.pop(0) if left else None
            wanted = request.headers.get("range")
            same = request.headers.get("if-range") in (None, etag)
            if wanted and ranges and same:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                if start >= len(body):
                    request.reply(416, b"", content_range=f"bytes */{len(body)}")
                    return
                span = f"bytes {start}-{len(body) - 1}/{len(body)}"
                request.reply(206, body[start:], cut=cut, content_range=span, etag=etag)
            else:
                request.reply(200, body, cut=cut, etag=etag)

        self.answers[path] = answer

    def page(self, path: str, body: str | bytes, content_type: str = "text/html") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.answers[path] = lambda request: request.reply(200, data, content_type=content_type)

    def json(self, path: str, value: object, content_type: str = "application/json") -> None:
        self.page(path, json.dumps(value), content_type)

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        self.answers[path] = lambda request: request.reply(status, b"", location=target)

    def asked(self, path: str) -> list[dict[str, str]]:
        """Headers of the requests for a path, in order."""
        return [headers for asked, headers in self.requests if asked.partition("?")[0] == path]


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()
    server = _Server(("127.0.0.1", 0), Request)
    server.web = web
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
