"""A server with GraphQL in front of a scripted model, and the plain ways to ask it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.graphql.part import GraphqlPart
from tests.serving.scripted import RunningServer, ScriptedEngine

__all__ = ["CHAT", "STREAM", "ask", "chat_input", "code_of", "opened", "serve_graphql", "subscribe", "until"]

CHAT = """
mutation ($input: ChatInput!) {
  chat(input: $input) {
    model
    choices { index content reasoning finishReason stopReason logprobs toolCalls { name arguments } }
    usage { promptTokens completionTokens totalTokens }
    promptLogprobs
  }
}
"""
STREAM = (
    "subscription ($input: ChatInput!) { chat(input: $input) { index content finishReason usage { totalTokens } } }"
)


def serve_graphql(
    start: Callable[..., Any],
    engine: ScriptedEngine | None = None,
    *,
    limits: Mapping[str, Any] | None = None,
    part: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunningServer:
    """`start` is `start_server` or the gateway's `serve`; `limits` are settings of GraphQL, `part` the part's own."""
    wanted = GraphqlSettings(**(limits or {}))
    server: RunningServer = start(
        engine, parts=lambda models: [GraphqlPart(models, wanted, **(part or {}))], **settings
    )
    return server


def chat_input(content: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"input": {"messages": [{"role": "USER", "content": content}], **fields}}


def ask(server: RunningServer, query: str, variables: Any = None, *, key: str | None = None, **more: Any) -> Any:
    """The body of the response to a POST."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"query": query, "variables": variables, **more}
    return httpx.post(f"{server.url}/graphql", json=body, headers=headers, timeout=30).json()


def code_of(response: Mapping[str, Any]) -> str:
    """The code of the first error."""
    return str(response["errors"][0]["extensions"]["code"])


@contextmanager
def opened(server: RunningServer, *, introduce: Any = True, **options: Any) -> Iterator[ClientConnection]:
    """A socket whose client has introduced itself; `introduce` may be the payload to do it with."""
    options = {"subprotocols": ["graphql-transport-ws"], **options}
    with connect(server.url.replace("http", "ws") + "/graphql", open_timeout=20, **options) as socket:
        if introduce:
            payload = {} if introduce is True else {"payload": introduce}
            socket.send(json.dumps({"type": "connection_init", **payload}))
            assert json.loads(socket.recv(timeout=20)) == {"type": "connection_ack"}
        yield socket


def subscribe(socket: ClientConnection, operation_id: str, query: str = STREAM, variables: Any = None) -> None:
    payload = {"query": query, "variables": variables}
    socket.send(json.dumps({"type": "subscribe", "id": operation_id, "payload": payload}))


def until(socket: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    """Messages up to one of a kind."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["type"] not in kinds:
        messages.append(json.loads(socket.recv(timeout=20)))
    return messages
