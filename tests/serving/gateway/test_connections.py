"""What a client may cost before it is understood: sizes, times, numbers of connections."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.connections import Connections, connection_limit
from glm_crush.serving.gateway.guarded_protocol import GuardedProtocol
from glm_crush.serving.websocket.part import WebSocketPart
from tests.serving.gateway.conftest import Serve
from tests.serving.gateway.raw_client import RawClient
from tests.serving.gateway.test_keys_over_http import CHAT, CHAT_PATH

pytestmark = pytest.mark.requirement("S6", "O6")

LOCAL: Any = {"api": {"key": None}}
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


def post(length: int) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % length


def test_ten_thousand_headers_are_refused(serve: Serve) -> None:
    url = serve(**LOCAL).url
    headers = b"".join(b"x-%d: y\r\n" % number for number in range(10_000))
    with RawClient(url) as client:
        reply = client.send(GET + headers + b"\r\n").everything()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "headers_too_large"
    assert httpx2.get(f"{url}/health").status_code == 200


def test_white_space_around_the_value_of_a_header_is_no_part_of_it(serve: Serve) -> None:
    with RawClient(serve(**LOCAL).url) as client:
        reply = client.send(GET + b"connection: close\r\nx-request-id: \t mine \t\r\n\r\n").everything()
    assert b"\r\nx-request-id: mine\r\n" in reply


@pytest.mark.parametrize(
    "beginning",
    [b"GET /" + b"a" * 40_000, GET + b"x: " + b"a" * 40_000, GET + b"a" * 40_000, b"a" * 40_000],
    ids=["path", "header value", "header name", "method"],
)
def test_what_does_not_end_is_refused_before_it_is_complete(serve: Serve, beginning: bytes) -> None:
    with RawClient(serve(**LOCAL).url) as client:
        assert client.send(beginning).status() in (400, 431)


def test_trailers_count_as_headers(serve: Serve) -> None:
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    trailers = b"".join(b"x-%d: y\r\n" % number for number in range(200))
    with RawClient(serve(**LOCAL).url) as client:
        assert client.send(request + trailers + b"\r\n").status() == 431


@pytest.mark.parametrize(
    "request_bytes", [b"nonsense\r\n\r\n", GET + b"bad header\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
def test_what_is_no_http_gets_the_error_body_of_every_other_error(serve: Serve, request_bytes: bytes) -> None:
    with RawClient(serve(**LOCAL).url) as client:
        reply = client.send(request_bytes).everything()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_headers_that_trickle_are_cut_off(serve: Serve) -> None:
    url = serve(header_timeout_seconds=0.2, **LOCAL).url
    with RawClient(url) as client:
        assert client.send(GET).status() == 408


def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    url = serve(header_timeout_seconds=0.2, **LOCAL).url
    with RawClient(url) as client:
        assert client.everything() == b""


@pytest.mark.parametrize("beginning", [b"", b"{"])
def test_a_body_that_trickles_is_cut_off(serve: Serve, beginning: bytes) -> None:
    url = serve(body_timeout_seconds=0.2, **LOCAL).url
    with RawClient(url) as client:
        assert client.send(post(1000) + beginning).status() == 408


def test_an_answered_connection_is_closed_when_nothing_more_is_asked(serve: Serve) -> None:
    url = serve(idle_timeout_seconds=0.2, **LOCAL).url
    with RawClient(url) as client:
        assert client.send(GET + b"\r\n").status() == 200


def test_bytes_that_are_no_request_do_not_keep_a_connection_open(serve: Serve) -> None:
    url = serve(idle_timeout_seconds=0.5, **LOCAL).url
    with RawClient(url) as client:
        assert client.send(GET + b"\r\n").socket.recv(65536).startswith(b"HTTP/1.1 200")
        assert client.send(b"\r\n").everything() == b""


def test_a_refused_body_is_thrown_away_and_the_connection_lives_on(serve: Serve) -> None:
    server = serve(api={"key": None, "max_body_bytes": 1000})
    with httpx2.Client(base_url=server.url) as client:
        for _ in range(2):
            reply = client.post(CHAT_PATH, content=b"x" * 2_000_000)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert client.post(CHAT_PATH, json=CHAT).status_code == 200


def test_a_reply_that_nobody_reads_is_cut_off_and_its_generation_ends(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(script=lambda _: "x" * 200_000)
    url = serve(engine, write_timeout_seconds=0.2, **LOCAL).url
    body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 200_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with RawClient(url, receive_buffer=4096) as client:
        client.send(head + body)
        assert engine.closed.wait(20)
    assert httpx2.get(f"{url}/health").status_code == 200


def test_a_client_that_closes_its_half_ends_its_generation(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=1)
    url = serve(engine, **LOCAL).url
    body = json.dumps({**CHAT, "stream": True}).encode()
    with RawClient(url) as client:
        client.send(post(len(body)) + body)
        assert engine.holding.wait(10)
        client.socket.shutdown(1)
        assert engine.closed.wait(10)


def test_idle_sockets_make_room_for_whoever_asks(serve: Serve) -> None:
    server = serve(max_connections=5, **LOCAL)
    idle = [RawClient(server.url) for _ in range(20)]
    assert [httpx2.get(f"{server.url}/health").status_code for _ in range(5)] == [200] * 5
    closed = [client for client in idle[:10] if client.everything() == b""]
    assert len(closed) == 10
    for client in idle:
        client.socket.close()


def test_when_every_connection_is_busy_a_new_one_is_told_to_come_back(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=1)
    url = serve(engine, max_connections=1, **LOCAL).url
    body = json.dumps({**CHAT, "stream": True}).encode()
    with RawClient(url) as busy:
        busy.send(post(len(body)) + body)
        assert engine.holding.wait(10)
        reply = httpx2.get(f"{url}/health")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.json()["error"]["code"] == "too_many_connections"


def test_a_websocket_keeps_its_place_until_it_ends(serve: Serve) -> None:
    server = serve(max_connections=1, parts=lambda models: [WebSocketPart(models)], **LOCAL)
    with connect(server.url.replace("http", "ws") + "/v1/ws"):
        assert httpx2.get(f"{server.url}/health").status_code == 503
    while httpx2.get(f"{server.url}/health").status_code == 503:
        pass


def test_requests_behind_each_other_on_one_connection_are_all_answered(serve: Serve) -> None:
    url = serve(idle_timeout_seconds=0.3, **LOCAL).url
    with RawClient(url) as client:
        replies = client.send((GET + b"\r\n") * 5).everything()
    assert replies.count(b"HTTP/1.1 200 OK") == 5


def test_a_request_that_lasts_too_long_is_a_504_and_its_generation_ends(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=1)
    url = serve(engine, request_timeout_seconds=0.2, **LOCAL).url
    reply = httpx2.post(f"{url}{CHAT_PATH}", json=CHAT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_timeout")
    assert engine.closed.wait(10)


def test_a_stream_that_lasts_too_long_is_cut(serve: Serve, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=1)
    url = serve(engine, request_timeout_seconds=0.2, **LOCAL).url
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.post(f"{url}{CHAT_PATH}", json={**CHAT, "stream": True})
    assert engine.closed.wait(10)


def test_the_set_of_connections_evicts_the_longest_idle_and_never_a_busy_one() -> None:
    class Connection:
        evicted = False

        def evict(self) -> None:
            self.evicted = True

    first, second, third, fourth = (Connection() for _ in range(4))
    connections = Connections(2)
    assert connections.add(first)
    assert connections.add(second)
    connections.set_busy(first)
    assert connections.add(third)
    assert (second.evicted, first.evicted) == (True, False)
    connections.set_busy(third)
    assert not connections.add(fourth)
    connections.set_idle(first)
    assert connections.add(fourth)
    assert (first.evicted, len(connections)) == (True, 2)


def test_more_connections_than_files_may_be_open_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.max_connections is 1000000000"):
        connection_limit(1_000_000_000)
    assert connection_limit(None) >= 1


def test_every_server_has_connections_of_its_own() -> None:
    from glm_crush.serving.gateway.guarded_protocol import guarded_protocol

    one, other = guarded_protocol(GatewaySettings()), guarded_protocol(GatewaySettings())
    assert issubclass(one, GuardedProtocol)
    assert one.all_connections is not other.all_connections  # type: ignore[attr-defined]
