"""One WebSocket carries many generations at once, each of which can be cancelled, refused and paced on its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from glm_crush.serving.websocket.part import WebSocketPart
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3")

Start = Callable[..., RunningServer]


@pytest.fixture
def start(start_server: Callable[..., Any]) -> Start:
    def started(engine: ScriptedEngine | None = None, max_generations: int = 4, **settings: Any) -> RunningServer:
        server: RunningServer = start_server(
            engine, parts=lambda models: [WebSocketPart(models, max_generations=max_generations)], **settings
        )
        return server

    return started


@contextmanager
def opened(server: RunningServer, **options: Any) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + "/v1/ws", open_timeout=20, **options) as socket:
        yield socket


def chat(generation: str, content: str = "hi", **fields: Any) -> str:
    request = {"messages": [{"role": "user", "content": content}], **fields}
    return json.dumps({"type": "chat", "id": generation, "request": request})


def until(socket: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    messages = []
    while not messages or messages[-1]["type"] not in kinds:
        messages.append(json.loads(socket.recv(timeout=20)))
    return messages


def text_of(messages: list[dict[str, Any]], generation: str) -> str:
    chunks = [m["chunk"] for m in messages if m["type"] == "delta" and m["id"] == generation]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_a_generation_starts_streams_and_is_done_with_its_counts(start: Start) -> None:
    with opened(start()) as socket:
        socket.send(chat("a"))
        messages = until(socket, "done")
    assert messages[0]["type"] == "started"
    assert messages[0]["model"] == "scripted"
    assert text_of(messages, "a") == "Hello"
    assert messages[-1]["usage"]["completion_tokens"] == 5


def test_a_generation_is_a_stream_in_what_it_can_ask_for(start: Start) -> None:
    with opened(start()) as socket:
        socket.send(chat("a", return_progress=True, stream_options={"include_usage": True}))
        assert until(socket, "done", "error")[-1]["type"] == "done"
        socket.send(chat("b", prompt_logprobs=1))
        refused = until(socket, "done", "error")[-1]
    assert (refused["status"], refused["error"]["param"]) == (400, "prompt_logprobs")


def test_generations_run_side_by_side(start: Start) -> None:
    server = start(ScriptedEngine(script=lambda prompt: prompt.split(":")[1][:2] * 3))
    with opened(server) as socket:
        socket.send(chat("a", "xy"))
        socket.send(chat("b", "uv"))
        messages = until(socket, "done")
        messages += until(socket, "done")
    assert (text_of(messages, "a"), text_of(messages, "b")) == ("xyxyxy", "uvuvuv")
    assert {message["id"] for message in messages if message["type"] == "done"} == {"a", "b"}


def test_a_server_that_stops_lets_generations_end_and_begins_none(start_server: Callable[..., Any]) -> None:
    engine, parts = ScriptedEngine(hold_after=2), []

    def made(models: Any) -> list[WebSocketPart]:
        parts.append(WebSocketPart(models))
        return parts

    server = start_server(engine, parts=made)
    with opened(server) as socket:
        socket.send(chat("a"))
        assert engine.holding.wait(20)
        parts[0].drain()
        socket.send(chat("b"))
        refused = until(socket, "error")[-1]
        assert (refused["id"], refused["status"]) == ("b", 503)
        socket.send(json.dumps({"type": "cancel", "id": "a"}))
        assert until(socket, "cancelled")[-1]["id"] == "a"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


def test_a_cancelled_generation_says_so_and_the_others_go_on(start: Start) -> None:
    server = start(ScriptedEngine(hold_after=2))
    with opened(server) as socket:
        socket.send(chat("a"))
        assert server.engine.holding.wait(20)
        socket.send(json.dumps({"type": "cancel", "id": "a"}))
        assert until(socket, "cancelled")[-1] == {"type": "cancelled", "id": "a"}
        assert server.engine.closed.wait(20)
        socket.send(json.dumps({"type": "ping"}))
        assert until(socket, "pong")[-1] == {"type": "pong"}


def test_a_client_that_leaves_ends_its_generations(start: Start) -> None:
    server = start(ScriptedEngine(hold_after=1))
    with opened(server) as socket:
        socket.send(chat("a"))
        assert server.engine.holding.wait(20)
    assert server.engine.closed.wait(20)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("{", "message"),
        ("[]", "message"),
        ('{"type": "dance"}', "message"),
        ('{"type": "cancel"}', "cancel.id"),
        (chat("a", temperature=-1), "temperature"),
        (chat("a", frobnicate=1), "chat.request.frobnicate"),
        (chat("a", model="missing"), "model"),
        (json.dumps({"type": "ping"})[:-1] + ', "x": "' + "[" * 5000 + '"}', "ping.x"),
    ],
    ids=["no JSON", "no object", "type", "no id", "value", "unknown", "model", "long"],
)
def test_what_is_wrong_is_told_and_the_connection_stays(start: Start, text: str, parameter: str) -> None:
    with opened(start()) as socket:
        socket.send(text)
        error = until(socket, "error")[-1]
        assert error["status"] in (400, 404)
        assert error["error"]["param"] == parameter
        socket.send(json.dumps({"type": "ping"}))
        assert until(socket, "pong")


def test_an_id_in_use_and_one_generation_too_many_are_refused(start: Start) -> None:
    server = start(ScriptedEngine(hold_after=1), max_generations=1)
    with opened(server) as socket:
        socket.send(chat("a"))
        assert server.engine.holding.wait(20)
        socket.send(chat("a"))
        assert "in use" in until(socket, "error")[-1]["error"]["message"]
        socket.send(chat("b"))
        assert until(socket, "error")[-1]["status"] == 503


def test_a_generation_that_fails_ends_with_an_error_without_internals(start: Start) -> None:
    with opened(start(ScriptedEngine(fail_after=1))) as socket:
        socket.send(chat("a"))
        error = until(socket, "error")[-1]
    assert (error["id"], error["status"]) == ("a", 500)
    assert "secret internals" not in json.dumps(error)


def test_a_key_is_needed_where_one_is_set(start: Start) -> None:
    server = start(key="boot")
    with pytest.raises(InvalidStatus) as refused, opened(server):
        pass
    assert refused.value.response.status_code == 401
    with opened(server, additional_headers={"authorization": "Bearer boot"}) as socket:
        socket.send(json.dumps({"type": "ping"}))
        assert until(socket, "pong")


def test_a_page_gives_its_key_among_the_subprotocols(start: Start) -> None:
    with opened(start(key="boot"), subprotocols=["glm-crush.v1", "key.boot"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "glm-crush.v1"


def test_a_foreign_page_may_not_connect_without_a_key(start: Start) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(start(), origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_the_operator_hears_the_log_from_a_level_on(start: Start) -> None:
    server = start(key="boot")
    with opened(server, additional_headers={"authorization": "Bearer boot"}) as socket:
        socket.send(json.dumps({"type": "logs", "level": "warning"}))
        assert until(socket, "logs")[-1]["subscribed"] is True
        logging.getLogger("glm_crush.test").info("not this")
        logging.getLogger("glm_crush.test").warning("but this", extra={"request_id": "r1"})
        line = until(socket, "log")[-1]["line"]
        assert (line["message"], line["level"], line["request_id"]) == ("but this", "warning", "r1")


def test_only_the_operator_hears_the_log(start: Start) -> None:
    with opened(start()) as socket:
        socket.send(json.dumps({"type": "logs"}))
        assert until(socket, "error")[-1]["status"] == 403
