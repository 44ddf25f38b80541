"""A WebSocket client that reads nothing slows its own generation, and is cut off like any other slow reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.websocket.part import WebSocketPart
from tests.serving.graphql_client import chat_input
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3", "S6")

Serve = Callable[..., RunningServer]

MANY = 1_000_000
MESSAGES = [{"role": "user", "content": "hi"}]
LARGE_DELTAS = " ".join(f"a{number}: id" for number in range(200))  # 10 kB each: they fill what buffers there are
GRAPHQL = f"subscription ($input: ChatInput!) {{ chat(input: $input) {{ {LARGE_DELTAS} }} }}"
SUBSCRIBE = {"query": GRAPHQL, "variables": chat_input(sampling={"maxTokens": MANY})}
OPENINGS = {
    "/graphql": [{"type": "connection_init"}, {"type": "subscribe", "id": "a", "payload": SUBSCRIBE}],
    "/v1/ws": [
        {"type": "chat", "id": str(number), "request": {"messages": MESSAGES, "max_tokens": MANY, "n": 8}}
        for number in range(16)
    ],
}


@pytest.mark.parametrize("path", list(OPENINGS))
def test_a_client_that_reads_nothing_is_cut_off_and_its_generation_ends(serve: Serve, path: str) -> None:
    engine = ScriptedEngine(script=lambda prompt: "a" * MANY)

    def parts(models: Any) -> list[Any]:
        return [GraphqlPart(models, GraphqlSettings()), WebSocketPart(models)]

    server = serve(engine, parts=parts, api={"key": None}, write_timeout_seconds=0.2)
    url = server.url.replace("http", "ws") + path
    with connect(url, subprotocols=["graphql-transport-ws"], max_queue=1, close_timeout=1) as socket:  # type: ignore[list-item]
        for message in OPENINGS[path]:
            socket.send(json.dumps(message))
        assert engine.closed.wait(60)
        with suppress(ConnectionClosed):
            while True:
                socket.recv(timeout=20)
        assert socket.close_code == 1006
