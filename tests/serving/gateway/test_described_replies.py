"""A tour through the routes: every status, media type and body is as `/openapi.json` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from glm_crush.config import CacheSettings, ObservabilitySettings
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.response_cache.part import ResponseCache
from tests.serving.gateway.conftest import ADMIN, Serve
from tests.serving.gateway.test_keys_over_http import CHAT

pytestmark = pytest.mark.requirement("S1")

HI = [{"role": "user", "content": "Hi"}]
LOGPROBS = {"logprobs": True, "top_logprobs": 1, "prompt_logprobs": 1}


class Described:
    """A client that holds each reply against the description."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._document = client.get("/openapi.json").json()

    def __call__(self, method: str, path: str, *, status: int = 200, **request: Any) -> Any:
        """Ask; `{name}` of a path is filled from the request's `name`. Returns the JSON, or the text."""
        names = {name: request.pop(name) for name in list(request) if f"{{{name}}}" in path}
        reply = self._client.request(method, path.format(**names), **request)
        assert reply.status_code == status, reply.text
        described = self._document["paths"][path][method.lower()]["responses"]
        content = described.get(str(status), described["default"]).get("content", {})
        kind = reply.headers.get("content-type", "").partition(";")[0]
        assert (kind in content) or (not content and not reply.content), (path, kind, list(content))
        if kind == "application/json":
            schema = {**content[kind]["schema"], "components": self._document["components"]}
            Draft202012Validator(schema).validate(reply.json())
            return reply.json()
        return reply.text


@pytest.fixture
def ask(serve: Serve) -> Iterator[Described]:
    """Of a server with keys, metrics and a cache."""

    def parts(models: Any) -> list[Any]:
        return [Observability(models, ObservabilitySettings()), ResponseCache(models, CacheSettings())]

    with httpx2.Client(base_url=serve(parts=parts).url, headers=ADMIN, timeout=30) as client:
        yield Described(client)


def test_generation_is_answered_as_described(ask: Described) -> None:
    ask("POST", "/v1/chat/completions", json=CHAT)
    ask("POST", "/v1/chat/completions", json={**CHAT, **LOGPROBS, "n": 2})
    ask("POST", "/v1/chat/completions", json={**CHAT, "stream": True})
    ask("POST", "/v1/completions", json={"prompt": "Hi", "max_tokens": 2, "logprobs": 1, "echo": True})
    ask("POST", "/v1/messages", json={"model": "scripted", "max_tokens": 3, "messages": HI})
    ask("POST", "/v1/messages", json={"model": "scripted", "max_tokens": 3, "messages": HI, "stream": True})
    ask("POST", "/v1/messages/count_tokens", json={"model": "scripted", "messages": HI})
    for path, body in (("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "Hi"})):
        ask("POST", path, json={"model": "scripted", "stream": False, **body})
        ask("POST", path, json={"model": "scripted", **body})
    ask("POST", "/tokenize", json={"prompt": "Hi", "return_token_strs": True})
    ask("POST", "/detokenize", json={"tokens": [72, 105]})
    ask("POST", "/v1/chat/completions/render", json={"messages": HI})
    ask("POST", "/v1/completions/render", json={"prompt": ["Hi", "Ho"]})


def test_what_is_kept_is_answered_as_described(ask: Described) -> None:
    made = ask("POST", "/v1/responses", json={"input": "Hi"})
    ask("POST", "/v1/responses/input_tokens", json={"input": "Hi", "previous_response_id": made["id"]})
    for method, path in (("GET", "/v1/responses/{response_id}"), ("GET", "/v1/responses/{response_id}/input_items")):
        ask(method, path, response_id=made["id"])
    ask("DELETE", "/v1/responses/{response_id}", response_id=made["id"])
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hi"}}\n'
    file = ask("POST", "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", line)})
    ask("GET", "/v1/files", params={"limit": 1, "order": "asc", "purpose": "batch"})
    ask("GET", "/v1/files/{file_id}", file_id=file["id"])
    ask("GET", "/v1/files/{file_id}/content", file_id=file["id"])
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = ask("POST", "/v1/batches", json=wanted)
    ask("GET", "/v1/batches/{batch_id}", batch_id=batch["id"])
    ask("GET", "/v1/batches")


def test_keys_and_the_state_of_the_server_are_answered_as_described(ask: Described) -> None:
    ask("POST", "/admin/v1/applications", status=201, json={"name": "shop"})
    limits = {"requests_per_minute": 5, "money_per_day": 0.5}
    key = ask("POST", "/admin/v1/keys", status=201, json={"application": "shop", "limits": limits})["id"]
    ask("POST", "/admin/v1/keys/{key_id}/rotate", status=201, key_id=key, json={})
    ask("PATCH", "/admin/v1/keys/{key_id}", key_id=key, json={"name": "till"})
    ask("GET", "/admin/v1/keys/{key_id}", key_id=key)
    ask("GET", "/admin/v1/keys", params={"application": "shop"})
    ask("DELETE", "/admin/v1/keys/{key_id}", key_id=key)
    ask("POST", "/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
    for path in ("applications", "usage", "audit", "cache"):
        ask("GET", f"/admin/v1/{path}")
    for path in ("/", "/health", "/ready", "/version", "/load", "/metrics", "/v1/models", "/api/tags", "/api/ps"):
        ask("GET", path)
    ask("GET", "/v1/models/{model_id}", model_id="scripted")
    ask("POST", "/api/show", json={"model": "scripted"})


def test_refusals_are_answered_as_described_in_every_dialect(ask: Described) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/responses", "/admin/v1/keys", "/tokenize"):
        ask("POST", path, status=400, json={"colour": 1})
    ask("GET", "/v1/models/{model_id}", status=404, model_id="some/where/else")
    ask("GET", "/v1/files/{file_id}", status=404, file_id="file-0")
    ask("DELETE", "/admin/v1/keys/{key_id}", status=404, key_id="key_0")
