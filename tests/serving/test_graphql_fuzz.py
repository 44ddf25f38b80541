"""Whatever is sent to /graphql, by HTTP or WebSocket: an answer or a refusal in its shape, never a failure of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema, nodes
from starlette.testclient import TestClient

from glm_crush.config import ApiSettings
from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.graphql.schema import schema_text
from glm_crush.serving.served_models import ServedModels
from tests.serving.graphql_client import CHAT
from tests.serving.mutations import mutated
from tests.serving.scripted import ScriptedEngine, scripted_model

pytestmark = pytest.mark.requirement("S3")

Post = Callable[[bytes], httpx2.Response]
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
SCALARS = {
    "BigInt": st.integers(-(2**70), 2**70).map(nodes.Int),
    "JSON": st.sampled_from([nodes.String("x"), nodes.Int(1), nodes.Object([])]),
    "Date": st.just(nodes.String("2026-11-22")),
    "DateTime": st.just(nodes.String("2030-01-01T00:00:00Z")),
}
CHAT_BODY = {
    "query": CHAT,
    "operationName": None,
    "extensions": {},
    "variables": {
        "input": {
            "messages": [
                {"role": "SYSTEM", "content": "Be brief."},
                {"role": "ASSISTANT", "toolCalls": [{"id": "a", "name": "f", "arguments": "{}"}]},
                {"role": "TOOL", "toolCallId": "a", "content": "on"},
            ],
            "sampling": {"maxTokens": 3, "stop": ["END"], "seed": 1, "logitBias": [{"tokenId": 1, "bias": 1.0}]},
            "responseFormat": {"choice": ["a", "b"]},
            "toolChoice": {"mode": "AUTO"},
            "chatTemplateKwargs": {"enable_thinking": False},
            "contextPolicy": "REFUSE",
        }
    },
}


def make_app() -> Any:
    models = ServedModels([scripted_model(ScriptedEngine())])
    return create_app(models, ApiSettings(), parts=[GraphqlPart(models, GraphqlSettings())])


@pytest.fixture
def post() -> Post:
    app = make_app()

    def send(body: bytes, accept: str = "application/json") -> httpx2.Response:
        async def run() -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            headers = {"content-type": "application/json", "accept": accept}
            async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                return await client.post("/graphql", content=body)

        return asyncio.run(run())

    return send


def check(response: httpx2.Response) -> None:
    assert response.status_code < 500, response.text
    body = response.json()
    assert set(body) <= {"data", "errors"}
    for error in body.get("errors", ()):
        assert error["message"]
        assert error["extensions"]["status"] < 500, response.text
        assert error["extensions"]["code"]


@FUZZ
@given(body=mutated(CHAT_BODY))
def test_a_broken_request_is_answered_or_refused(post: Post, body: dict[str, Any]) -> None:
    check(post(json.dumps(body).encode()))


@FUZZ
@given(document=from_schema(schema_text(), custom_scalars=SCALARS))
def test_whatever_the_schema_allows_is_answered_or_refused(post: Post, document: str) -> None:
    """The scripted engine is no database: what is for administrators is refused as not found."""
    check(post(json.dumps({"query": document}).encode()))


@FUZZ
@given(body=st.one_of(st.binary(max_size=200), st.text(max_size=60).map(lambda t: json.dumps({"query": t}).encode())))
def test_noise_is_refused(post: Post, body: bytes) -> None:
    check(post(body))


TYPES = ["connection_init", "subscribe", "complete", "ping", "pong", "next", "", "error"]
MESSAGES = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    mutated(
        {"type": "subscribe", "id": "a", "payload": {"query": "{ __typename }", "variables": {}, "operationName": None}}
    ).map(json.dumps),
    st.fixed_dictionaries({"type": st.sampled_from(TYPES)}, optional={"id": st.text(max_size=3)}).map(json.dumps),
)


@FUZZ
@given(messages=st.lists(MESSAGES, max_size=5), introduces=st.booleans())
def test_whatever_a_socket_hears_it_answers_or_closes_with_a_code_of_the_protocol(
    messages: list[str | bytes], introduces: bool
) -> None:
    with TestClient(make_app()) as client, client.websocket_connect("/graphql", ["graphql-transport-ws"]) as socket:
        if introduces:
            socket.send_text('{"type": "connection_init"}')
        for message in messages:
            if isinstance(message, bytes):
                socket.send_bytes(message)
            else:
                socket.send_text(message)
        socket.send_text("end")  # breaks the protocol in any case
        while (heard := socket.receive())["type"] == "websocket.send":
            answer = json.loads(heard["text"])
            assert answer["type"] in {"connection_ack", "next", "error", "complete", "pong"}
        assert heard["code"] in {4400, 4401, 4403, 4409, 4429}
