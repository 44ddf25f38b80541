"""GraphQL over WebSockets: graphql-transport-ws to the letter; each operation is cancelled and refused on its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from gql import Client, GraphQLRequest
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import ConnectionClosed

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.graphql.part import GraphqlPart
from tests.serving.graphql_client import CHAT, STREAM, chat_input, code_of, opened, serve_graphql, subscribe, until
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3")

Start = Callable[..., RunningServer]


@pytest.fixture
def start(start_server: Callable[..., Any]) -> Start:
    return lambda engine=None, **settings: serve_graphql(start_server, engine, **settings)


def text_of(messages: list[dict[str, Any]], operation_id: str) -> str:
    parts = [m["payload"]["data"]["chat"] for m in messages if m["type"] == "next" and m["id"] == operation_id]
    return "".join(part["content"] for part in parts)


def close_code(socket: Any) -> int:
    while socket.close_code is None:
        with suppress(ConnectionClosed):
            socket.recv(timeout=20)
    return int(socket.close_code)


def test_a_subscription_streams_tokens_to_the_usual_client(start: Start) -> None:
    url = start().url.replace("http", "ws") + "/graphql"

    async def run() -> list[Any]:
        async with Client(transport=WebsocketsTransport(url=url)) as session:
            return [
                part["chat"] async for part in session.subscribe(GraphQLRequest(STREAM, variable_values=chat_input()))
            ]

    parts = asyncio.run(run())
    assert [part["content"] for part in parts] == list("Hello")
    assert parts[-1]["finishReason"] == "STOP"
    assert parts[-1]["usage"] == {"totalTokens": 23}


def test_every_operation_has_a_line_in_the_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="glm_crush.serving")
    with opened(start()) as socket:
        subscribe(socket, "a", variables=chat_input())
        until(socket, "complete")
        subscribe(socket, "b", "{ nonsense }")
        until(socket, "error")
    lines = [(record.method, record.path, record.status) for record in caplog.records if hasattr(record, "method")]
    assert lines == [("WS", "/graphql", 200), ("WS", "/graphql", 400)]


def test_operations_of_every_kind_run_side_by_side(start: Start) -> None:
    server = start(ScriptedEngine(script=lambda prompt: prompt.split(":")[1][:2] * 3))
    with opened(server) as socket:
        subscribe(socket, "a", variables=chat_input("xy"))
        subscribe(socket, "b", variables=chat_input("uv"))
        subscribe(socket, "c", "{ models { name } }")
        subscribe(socket, "d", CHAT, chat_input("mn"))
        messages = [message for _ in range(4) for message in until(socket, "complete")]
    assert (text_of(messages, "a"), text_of(messages, "b")) == ("xyxyxy", "uvuvuv")
    answers = {message["id"]: message["payload"]["data"] for message in messages if message["type"] == "next"}
    assert answers["c"] == {"models": [{"name": "scripted"}]}
    assert answers["d"]["chat"]["choices"][0]["content"] == "mnmnmn"
    assert sorted(message["id"] for message in messages if message["type"] == "complete") == ["a", "b", "c", "d"]


def test_a_cancelled_subscription_ends_its_generation_and_frees_its_id(start: Start) -> None:
    engine = ScriptedEngine(hold_after=2)
    with opened(start(engine)) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert engine.holding.wait(20)
        socket.send(json.dumps({"type": "complete", "id": "a"}))
        assert engine.closed.wait(20)
        engine.hold_after = None
        subscribe(socket, "a", variables=chat_input())
        messages = until(socket, "complete")
    assert text_of(messages, "a").endswith("Hello")


def test_a_server_that_stops_lets_operations_end_and_begins_none(start_server: Callable[..., Any]) -> None:
    engine, made = ScriptedEngine(hold_after=2), []

    def parts(models: Any) -> list[Any]:
        made.append(GraphqlPart(models, GraphqlSettings()))
        return made

    with opened(start_server(engine, parts=parts)) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert engine.holding.wait(20)
        made[0].drain()
        subscribe(socket, "b", variables=chat_input())
        refused = until(socket, "error")[-1]
        assert (refused["id"], code_of({"errors": refused["payload"]})) == ("b", "engine_overloaded")
        socket.send(json.dumps({"type": "complete", "id": "a"}))
        assert close_code(socket) == 1001
    assert engine.closed.wait(20)


def test_a_client_that_leaves_ends_its_generations(start: Start) -> None:
    engine = ScriptedEngine(hold_after=1)
    with opened(start(engine)) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert engine.holding.wait(20)
    assert engine.closed.wait(20)


def test_pings_are_answered_before_and_after_the_introduction(start: Start) -> None:
    with opened(start(), introduce=False) as socket:
        socket.send('{"type": "ping"}')
        assert json.loads(socket.recv(timeout=20)) == {"type": "pong"}
        socket.send('{"type": "connection_init"}')
        socket.send('{"type": "pong"}')
        socket.send('{"type": "ping", "payload": {"at": 1}}')
        assert [json.loads(socket.recv(timeout=20))["type"] for _ in range(2)] == ["connection_ack", "pong"]


def test_an_operation_that_cannot_be_ends_with_an_error_and_the_others_go_on(start: Start) -> None:
    with opened(start()) as socket:
        for query, code in (
            ("{", "graphql_parse_failed"),
            ("{ nonsense }", "graphql_validation_failed"),
            ("subscription { complete(input: {}) { text } }", "invalid_parameter"),
        ):
            subscribe(socket, "a", query)
            error = until(socket, "error")[-1]
            assert code_of({"errors": error["payload"]}) == code
        subscribe(socket, "a", variables=chat_input())
        assert text_of(until(socket, "complete"), "a") == "Hello"


def test_a_generation_that_fails_ends_with_an_error_without_internals(start: Start) -> None:
    with opened(start(ScriptedEngine(fail_after=1))) as socket:
        subscribe(socket, "a", variables=chat_input())
        messages = until(socket, "error")
    assert text_of(messages, "a") == "H"
    assert code_of({"errors": messages[-1]["payload"]}) == "internal_error"
    assert "secret internals" not in json.dumps(messages)


def test_one_operation_too_many_is_refused(start: Start) -> None:
    engine = ScriptedEngine(hold_after=1)
    with opened(start(engine, limits={"max_operations": 1})) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert engine.holding.wait(20)
        subscribe(socket, "b", variables=chat_input())
        error = until(socket, "error")[-1]
    assert (error["id"], code_of({"errors": error["payload"]})) == ("b", "engine_overloaded")


@pytest.mark.parametrize(
    ("introduce", "message", "code"),
    [
        (True, '{"type": "connection_init"}', 4429),
        (False, '{"type": "subscribe", "id": "a", "payload": {"query": "{ __typename }"}}', 4401),
        (False, '{"type": "connection_init", "payload": [1]}', 4400),
        (True, "{", 4400),
        (True, "[]", 4400),
        (True, '{"type": "dance"}', 4400),
        (True, '{"type": 7}', 4400),
        (True, '{"type": "subscribe", "payload": {"query": "{ __typename }"}}', 4400),
        (True, '{"type": "subscribe", "id": "", "payload": {"query": "{ __typename }"}}', 4400),
        (True, b'{"type": "ping"}', 4400),
        (True, '{"type": "ping", "payload": ' + "[" * 5000 + "}", 4400),
    ],
    ids=["init", "early", "payload", "json", "object", "type", "no type", "no id", "empty", "bytes", "deep"],
)
def test_a_client_that_breaks_the_protocol_is_told_how(
    start: Start, introduce: bool, message: str | bytes, code: int
) -> None:
    with opened(start(), introduce=introduce) as socket:
        socket.send(message)
        assert close_code(socket) == code


def test_an_id_in_use_closes_the_connection(start: Start) -> None:
    engine = ScriptedEngine(hold_after=1)
    with opened(start(engine)) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert engine.holding.wait(20)
        subscribe(socket, "a", variables=chat_input())
        assert close_code(socket) == 4409
    assert engine.closed.wait(20)


def test_another_protocol_is_not_spoken(start: Start) -> None:
    with opened(start(), introduce=False, subprotocols=["graphql-ws"]) as socket:
        assert close_code(socket) == 4406


def test_a_client_that_does_not_introduce_itself_is_sent_away(start: Start) -> None:
    with opened(start(part={"init_timeout_seconds": 0.05}), introduce=False) as socket:
        assert close_code(socket) == 4408


def test_a_key_comes_with_the_handshake_or_the_introduction(start: Start) -> None:
    server = start(key="boot")
    for introduce, options in (
        (True, {"additional_headers": {"authorization": "Bearer boot"}}),
        ({"Authorization": "Bearer boot"}, {}),
        ({"headers": {"X-API-Key": "boot"}}, {}),
    ):
        with opened(server, introduce=introduce, **options) as socket:  # type: ignore[arg-type]
            subscribe(socket, "a", "{ models { name } }")
            assert until(socket, "complete")[0]["payload"]["data"] == {"models": [{"name": "scripted"}]}


@pytest.mark.parametrize("payload", [{}, {"authorization": "Bearer wrong"}, {"authorization": 7}])
def test_without_a_key_or_with_a_wrong_one_a_client_is_sent_away(start: Start, payload: dict[str, Any]) -> None:
    with opened(start(key="boot"), introduce=False) as socket:
        socket.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert close_code(socket) == 4403


def test_a_foreign_page_may_not_use_a_server_without_keys(start: Start) -> None:
    with opened(start(), introduce=False, origin="https://evil.example") as socket:
        socket.send('{"type": "connection_init"}')
        assert close_code(socket) == 4403
