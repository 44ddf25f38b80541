"""What holds for every route: ids, keys, sizes, unknown paths, probes."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from glm_crush.config import ApiSettings
from glm_crush.serving import app
from glm_crush.serving.app import create_app
from glm_crush.serving.openapi import openapi_document

Start = Callable[..., Any]
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def test_every_reply_carries_a_request_id_and_its_time(start_server: Start) -> None:
    response = httpx2.get(f"{start_server().url}/health")
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["openai-processing-ms"].isdigit()


def test_the_callers_request_id_is_kept_if_it_is_sane(start_server: Start) -> None:
    server = start_server()
    kept = httpx2.get(f"{server.url}/health", headers={"x-request-id": "abc-1"})
    replaced = httpx2.get(f"{server.url}/health", headers={"x-request-id": "a b"})
    assert kept.headers["x-request-id"] == "abc-1"
    assert replaced.headers["x-request-id"].startswith("req_")


def test_probes_say_that_it_lives_and_can_answer(start_server: Start) -> None:
    server = start_server()
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx2.get(f"{server.url}/ready").json() == {"status": "ready", "models": ["scripted"]}
    assert "version" in httpx2.get(f"{server.url}/version").json()


def test_a_server_whose_engine_stopped_is_not_ready(start_server: Start, scripted_engine: Any) -> None:
    response = httpx2.get(f"{start_server(scripted_engine(is_alive=False)).url}/ready")
    assert (response.status_code, response.json()["stopped"]) == (503, ["scripted"])


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/nothing", 404), ("GET", "/v1/chat/completions", 405)]
)
def test_an_unknown_path_or_method_has_the_usual_error_body(
    start_server: Start, method: str, path: str, status: int
) -> None:
    response = httpx2.request(method, f"{start_server().url}{path}")
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_405_says_which_methods_the_path_takes(start_server: Start) -> None:
    url = start_server().url
    assert httpx2.get(f"{url}/v1/chat/completions").headers["allow"] == "POST"
    assert httpx2.post(f"{url}/v1/models/scripted").headers["allow"] == "GET, HEAD"
    assert "allow" not in httpx2.get(f"{url}/v2/nothing").headers


def test_with_a_key_set_every_api_path_needs_it(start_server: Start) -> None:
    server = start_server(key="secret")
    url = f"{server.url}/v1/models"
    without, wrong = httpx2.get(url), httpx2.get(url, headers={"authorization": "Bearer other"})
    assert [without.status_code, wrong.status_code] == [401, 401]
    assert without.json()["error"]["code"] == "invalid_api_key"
    assert [without.headers["www-authenticate"], wrong.headers["www-authenticate"]] == ["Bearer", "Bearer"]
    assert httpx2.get(url, headers={"authorization": "Bearer secret"}).status_code == 200
    assert httpx2.get(url, headers={"x-api-key": "secret"}).status_code == 200
    assert httpx2.get(f"{server.url}/health").status_code == 200


def test_a_body_above_the_limit_is_refused_declared_or_not(start_server: Start) -> None:
    server = start_server(max_body_bytes=1000)

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    declared = httpx2.post(f"{server.url}/v1/chat/completions", content=b"x" * 3000)
    chunked = httpx2.post(f"{server.url}/v1/chat/completions", content=chunks())
    for response in (declared, chunked):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
    assert httpx2.post(f"{server.url}/v1/chat/completions", json=CHAT).status_code == 200


def test_a_compressed_body_is_refused_for_what_it_is(start_server: Start) -> None:
    url = f"{start_server().url}/v1/chat/completions"
    refused = httpx2.post(url, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "identity"
    assert refused.json()["error"]["message"] == "the body has the content-encoding 'gzip'; send it uncompressed"
    assert httpx2.post(url, json=CHAT, headers={"content-encoding": "identity"}).status_code == 200


def test_the_openapi_document_describes_every_route_and_its_body(start_server: Start) -> None:
    server = start_server()
    document = httpx2.get(f"{server.url}/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert schema["required"] == ["messages"]
    assert schema["additionalProperties"] is False
    served = {route.path.replace(":path", "") for route in create_app([], ApiSettings()).routes}
    assert set(document["paths"]) == served - {"/docs", "/openapi.json"}
    page = httpx2.get(f"{server.url}/docs").text
    assert "http" not in page.replace("/openapi.json", "")
    places, links = set(re.findall(r"id='([^']+)'", page)), set(re.findall(r"href='#([^']+)'", page))
    assert links - {"types"} <= places
    operations = [f"{m} {path}" for path, methods in document["paths"].items() for m in methods]
    assert all(f">{operation[0].upper()}" in page for operation in operations)
    assert {"post-v1-chat-completions", "get-v1-models", *document["components"]["schemas"]} <= places
    assert "<td><code>messages</code> (required)</td><td>list of <a href='#ChatMessage'>" in page


def test_the_api_is_described_once_and_not_on_the_event_loop(
    start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[bool] = []

    def described(*arguments: Any) -> dict[str, Any]:
        loops.append(asyncio._get_running_loop() is not None)
        return openapi_document(*arguments)

    monkeypatch.setattr(app, "openapi_document", described)
    server = start_server()
    for path in ("/docs", "/openapi.json", "/docs"):
        assert httpx2.get(server.url + path).status_code == 200
    assert loops == [False]


def test_a_405_names_every_method_of_the_path(start_server: Start) -> None:
    reply = httpx2.options(f"{start_server().url}/v1/models")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")


def test_a_model_whose_name_holds_slashes_is_found_by_its_path(start_server: Start) -> None:
    reply = httpx2.get(f"{start_server().url}/v1/models/some/where/else")
    assert reply.json()["error"]["message"].startswith("the model 'some/where/else' is not served here")


def test_a_path_that_ends_before_the_name_of_a_model_names_none(start_server: Start) -> None:
    reply = httpx2.get(f"{start_server().url}/v1/models/")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_the_openapi_document_describes_replies_streams_and_errors(start_server: Start) -> None:
    document = httpx2.get(f"{start_server().url}/openapi.json").json()
    responses = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    content = responses["200"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatCompletion"}
    assert content["text/event-stream"]["itemSchema"]["required"] == ["data"]
    reply = document["components"]["schemas"]["ChatCompletion"]
    assert reply["required"] == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert responses["default"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    assert list(document["paths"]["/ready"]["get"]["responses"]) == ["200", "503", "default"]
