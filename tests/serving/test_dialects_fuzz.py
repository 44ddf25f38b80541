"""Whatever a client sends to any dialect: an answer or a refusal in its shape, never a failure of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_crush.config import ApiSettings
from glm_crush.serving.app import create_app
from tests.serving.mutations import mutated

pytestmark = pytest.mark.requirement("S2")

SCHEMA = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {"on": True}}
ANTHROPIC = {
    "model": "glm47",
    "max_tokens": 4,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "on"}]},
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 3},
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "stream": True,
}


OLLAMA_CHAT = {
    "model": "glm47",
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "thinking": "Hm", "tool_calls": [{"function": {"name": "f", "arguments": {"on": True}}}]},
        {"role": "tool", "tool_name": "f", "content": "on"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "format": SCHEMA,
    "options": {"num_predict": 4, "temperature": 0.5, "stop": ["END"], "num_ctx": 1000, "repeat_last_n": -1, "seed": 1},
    "keep_alive": "5m",
    "think": True,
    "stream": True,
}
OLLAMA_GENERATE = {
    "model": "glm47",
    "prompt": "Hi",
    "system": "Be brief.",
    "template": "{{ messages[0].content }}",
    "context": [5, 6],
    "options": {"num_predict": 4, "top_k": 3},
    "stream": False,
}
OLLAMA_CREATE = {
    "model": "mine",
    "from": "glm47",
    "system": "Be brief.",
    "parameters": {"temperature": 0.5, "stop": ["END"], "num_ctx": 100},
    "messages": [{"role": "user", "content": "Hi"}],
    "license": "MIT",
}
OLLAMA = {
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": OLLAMA_GENERATE,
    "/api/create": OLLAMA_CREATE,
    "/api/show": {"model": "glm47", "verbose": True},
    "/api/copy": {"source": "glm47", "destination": "other"},
    "/api/embed": {"model": "glm47", "input": ["a", "b"], "dimensions": 4, "options": {"num_ctx": 8}},
    "/api/pull": {"model": "none", "stream": False},
}


def is_ollama_error(body: Any) -> bool:
    return list(body) == ["error"] and isinstance(body["error"], str)


def is_anthropic_error(body: Any) -> bool:
    return body["type"] == "error" and set(body["error"]) == {"type", "message"} and bool(body["request_id"])


@pytest.fixture
def post(glm_models: Any) -> Callable[[str, bytes], httpx2.Response]:
    app = create_app(glm_models, ApiSettings())

    def send(path: str, body: bytes) -> httpx2.Response:
        async def run() -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(path, content=body)

        return asyncio.run(run())

    return send


def check(response: httpx2.Response, is_error: Callable[[Any], bool]) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert is_error(response.json()), response.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(body=mutated(ANTHROPIC))
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_broken_anthropic_request_is_answered_or_refused(
    post: Callable[..., httpx2.Response], path: str, body: dict[str, Any]
) -> None:
    if path.endswith("count_tokens"):
        for name in ("max_tokens", "stop_sequences", "temperature", "stream"):
            body.pop(name, None)
    response = post(path, json.dumps(body).encode())
    check(response, is_anthropic_error)
    assert '"type":"error"' not in response.text or response.status_code >= 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
@pytest.mark.parametrize("path", OLLAMA)
def test_a_broken_ollama_request_is_answered_or_refused(
    post: Callable[..., httpx2.Response], path: str, data: Any
) -> None:
    response = post(path, json.dumps(data.draw(mutated(OLLAMA[path]))).encode())
    check(response, is_ollama_error)
    assert '{"error"' not in response.text or response.status_code >= 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/api/chat", "/api/generate"])
def test_what_is_no_json_is_refused(post: Callable[..., httpx2.Response], path: str, body: bytes) -> None:
    response = post(path, body)
    assert response.status_code == 400
    assert (is_ollama_error if path.startswith("/api/") else is_anthropic_error)(response.json())
