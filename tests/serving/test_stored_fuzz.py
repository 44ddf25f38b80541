"""Whatever a client sends to the APIs over the database: an answer or a refusal, never a failure of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.serving.app import create_app
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.mutations import mutated

pytestmark = pytest.mark.requirement("S1")

SCHEMA = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
TOOL = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
RESPONSE = {
    "model": "glm47",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "on"},
    ],
    "max_output_tokens": 4,
    "tools": [TOOL],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "stream": True,
}
BATCH = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "metadata": {"a": "b"},
    "output_expires_after": {"anchor": "created_at", "seconds": 3600},
}
TOKENIZE = {"messages": [{"role": "user", "content": "Hi"}], "tools": [], "return_token_strs": True}
BODIES = {"/v1/responses": RESPONSE, "/v1/batches": BATCH, "/tokenize": TOKENIZE, "/detokenize": {"tokens": [1, 2]}}
PATHS = (
    "/v1/responses/{}?stream=true",
    "/v1/responses/{}/input_items?after={}",
    "/v1/files/{}",
    "/v1/files/{}/content",
    "/v1/files?after={}&purpose={}",
    "/v1/batches/{}",
    "/v1/batches?after={}&limit={}",
)
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncontent\r\n--b--\r\n'
)


@pytest.fixture
def post(glm_models: Any, glm_home: Path, database_url: str) -> Iterator[Callable[..., httpx2.Response]]:
    """One event loop for all examples: the database belongs to it."""
    with asyncio.Runner() as runner:
        database = LazyDatabase(StorageSettings(url=database_url), glm_home)
        app = create_app(glm_models, ApiSettings(), database=database)

        async def send(path: str, body: bytes | None, content_type: str) -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                if body is None:
                    return await client.get(path)
                return await client.post(path, content=body, headers={"content-type": content_type})

        yield lambda path, body, content_type="application/json": runner.run(send(path, body, content_type))
        runner.run(database.close())


def check(response: httpx2.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert "internal error" not in response.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)
@given(data=st.data())
@pytest.mark.parametrize("path", BODIES)
def test_a_broken_request_is_answered_or_refused(post: Callable[..., Any], path: str, data: Any) -> None:
    check(post(path, json.dumps(data.draw(mutated(BODIES[path]))).encode()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)
@given(cut=st.integers(0, len(FORM)), noise=st.binary(max_size=8), kept=st.integers(0, len(FORM)))
def test_a_broken_upload_is_taken_or_refused(post: Callable[..., Any], cut: int, noise: bytes, kept: int) -> None:
    check(post("/v1/files", FORM[:cut] + noise + FORM[kept:], "multipart/form-data; boundary=b"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.one_of(st.text(max_size=9), st.sampled_from(["\0", "a\0b", "'", "%00", "é", "x" * 300])))
@pytest.mark.parametrize("path", PATHS)
def test_an_object_that_is_not_there_is_not_found(post: Callable[..., Any], path: str, name: str) -> None:
    check(post(path.replace("{}", quote(name, safe="")), None))
