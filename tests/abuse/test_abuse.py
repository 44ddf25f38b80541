"""A server under attack: memory stays bounded, statuses are right, and whoever asks decently is answered."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.abuse.processes import ServerProcess, server_process
from tests.serving.gateway.raw_client import RawClient

pytestmark = pytest.mark.requirement("S6", "O6")

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
CHAT_PATH = "/v1/chat/completions"
MOST_GROWTH_MEGABYTES = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server for all attacks, one after the other, as in life."""
    with server_process(header_timeout_seconds=3.0, body_timeout_seconds=3.0, max_connections=1000) as started:
        assert_serves(started)
        yield started


@pytest.fixture(autouse=True)
def _bounded(server: ServerProcess) -> Iterator[None]:
    before = server.memory_megabytes()
    yield
    assert_serves(server)
    assert server.memory_megabytes() < before + MOST_GROWTH_MEGABYTES


def assert_serves(server: ServerProcess) -> None:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/health").status_code == 200
        reply = client.post(CHAT_PATH, json=CHAT)
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"


def chat_bytes(**fields: Any) -> bytes:
    body = json.dumps({**CHAT, **fields}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def test_bodies_of_100_megabytes_are_refused_without_being_kept(server: ServerProcess) -> None:
    block = b"x" * 2**20

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield block

    with httpx2.Client(base_url=server.url, timeout=60) as client:
        declared = client.post(CHAT_PATH, content=block * 100)
        chunked = client.post(CHAT_PATH, content=chunks())
    assert [declared.status_code, chunked.status_code] == [413, 413]


def test_five_thousand_idle_sockets_shut_nobody_out(server: ServerProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5200 if hard == resource.RLIM_INFINITY else min(5200, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    sockets = [RawClient(server.url) for _ in range(min(5000, wanted - 200))]
    try:
        for client in sockets[::3]:
            try:
                client.send(b"GET /health HTT")  # some begin to say something
            except OSError:
                continue  # made room already
        for _ in range(20):
            assert_serves(server)
        assert server.open_files() < 1000 + 100
    finally:
        for client in sockets:
            client.socket.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slowloris_on_headers_and_bodies_ends_by_itself(server: ServerProcess) -> None:
    beginnings = (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n{",
    )
    clients = [RawClient(server.url).send(beginnings[number % 2]) for number in range(200)]
    assert_serves(server)
    statuses = [client.status() for client in clients]
    for client in clients:
        client.socket.close()
    assert statuses == [408] * 200


def test_ten_thousand_headers_are_refused_a_hundred_times(server: ServerProcess) -> None:
    headers = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 50) for number in range(10_000))
    for _ in range(100):
        with RawClient(server.url) as client:
            with contextlib.suppress(OSError):  # closed before all of it is sent
                client.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n")
            reply = client.everything()
            assert not reply or reply.startswith(b"HTTP/1.1 431 ")


def test_a_storm_of_disconnects_leaves_no_work_behind(server: ServerProcess) -> None:
    def strike(seed: int) -> None:
        chance = random.Random(seed)
        message = chat_bytes(stream=True, max_tokens=20_000, messages=[{"role": "user", "content": "long"}])
        with RawClient(server.url) as client:
            client.send(message[: chance.randrange(1, len(message) + 1)])
            if chance.random() < 0.5:
                client.socket.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    client.socket.recv(chance.randrange(1, 4096))
            if chance.random() < 0.5:  # a reset instead of a farewell
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    files = server.open_files()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(strike, range(600)))
    assert_serves(server)
    assert server.open_files() < files + 100


def test_half_closed_streams_end(server: ServerProcess) -> None:
    clients = [RawClient(server.url).send(chat_bytes(stream=True)) for _ in range(100)]
    for client in clients:
        client.socket.shutdown(socket.SHUT_WR)
    for client in clients:
        client.everything()
        client.socket.close()


def test_noise_is_never_a_server_error(server: ServerProcess) -> None:
    chance = random.Random(5)
    statuses = set()
    for _ in range(300):
        noise = bytearray(chat_bytes())
        for _ in range(chance.randrange(1, 20)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        with RawClient(server.url) as client:
            client.send(bytes(noise))
            client.socket.shutdown(socket.SHUT_WR)
            reply = client.everything()
            if reply.startswith(b"HTTP/"):
                statuses.add(int(reply.split(b" ", 2)[1]))
    assert all(status < 500 for status in statuses), statuses


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[" * 100_000, b'{"messages":' * 50_000, b"\xff\xfe", b"null", b"[]", b"1e999"),
        *(b'"' + b"x" * 100_000, b'{"messages": 5}', b'{"max_tokens": 1e400}', b'{"a": 1, "a": 2}', b"\x00" * 1000),
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -1}',
    ],
    ids=range(15),
)  # fmt: skip
def test_malformed_bodies_are_client_errors(server: ServerProcess, body: bytes) -> None:
    for path in (CHAT_PATH, "/v1/completions", "/v1/messages"):
        reply = httpx2.post(f"{server.url}{path}", content=body)
        assert 400 <= reply.status_code < 500, (path, reply.text)


def test_guessing_keys_is_held_back_and_costs_the_guesser(tmp_path: Any) -> None:
    with server_process(tmp_path, max_failures_per_minute=20) as server, httpx2.Client(base_url=server.url) as client:
        statuses = [
            client.get("/v1/models", headers={"authorization": f"Bearer guess-{number}"}).status_code
            for number in range(100)
        ]
        assert statuses == [401] * 20 + [429] * 80
        right = client.get("/v1/models", headers={"authorization": "Bearer operator"})
        assert (right.status_code, "retry-after" in right.headers) == (429, True)
