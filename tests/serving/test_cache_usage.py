"""Every protocol says how much of a prompt was cached, and where the operator lets it, where and why no more was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.sync.client import connect

from glm_crush.config import StorageSettings
from glm_crush.serving.websocket.part import WebSocketPart
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.types import CacheReport
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = [pytest.mark.requirement("E6"), pytest.mark.filterwarnings("error")]

Start = Callable[..., RunningServer]
MESSAGES = [{"role": "user", "content": "How many switches has the lamp?"}]  # "user:How many ..." in bytes
DIVERGED = CacheReport(12, 14, "diverged", ord(" "), ord("x"))


@pytest.fixture
def start(start_server: Start) -> Iterator[Start]:
    def started(report: CacheReport = DIVERGED, *, explains_cache: bool = True, **options: Any) -> RunningServer:
        engine = ScriptedEngine(cached=report, explains_cache=explains_cache)
        return start_server(engine, parts=lambda models: [WebSocketPart(models)], **options)

    return started


def post(server: RunningServer, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    reply = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=20)
    assert reply.status_code == 200, reply.text
    return reply


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def chat(server: RunningServer, **more: Any) -> dict[str, Any]:
    return dict(post(server, "/v1/chat/completions", {"messages": MESSAGES, **more}).json()["usage"])


def chat_stream(server: RunningServer) -> dict[str, Any]:
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    return dict(events(post(server, "/v1/chat/completions", body))[-1]["usage"])


def completion(server: RunningServer) -> dict[str, Any]:
    return dict(post(server, "/v1/completions", {"prompt": "user:How many switches?"}).json()["usage"])


def completion_stream(server: RunningServer) -> dict[str, Any]:
    body = {"prompt": "user:How many switches?", "stream": True, "stream_options": {"include_usage": True}}
    return dict(events(post(server, "/v1/completions", body))[-1]["usage"])


@pytest.mark.parametrize("ask", [chat, chat_stream, completion, completion_stream])
def test_openai_counts_and_explains(start: Start, ask: Callable[[RunningServer], dict[str, Any]]) -> None:
    usage = ask(start())
    assert usage["prompt_tokens_details"] == {"cached_tokens": 12}
    cache = usage["cache"]
    assert {name: cache[name] for name in ("cached_tokens", "reason", "position", "before", "token")} == {
        "cached_tokens": 12,
        "reason": "diverged",
        "position": 14,
        "before": "er:How many ",
        "token": "s",
    }
    assert cache["after"].startswith("witches")
    assert cache["explanation"] == (
        f"12 of {cache['prompt_tokens']} prompt tokens were cached; what had been computed before goes on otherwise "
        "than with token 14 ('s')"
    )


def test_nothing_is_explained_unless_the_operator_lets_it(start: Start) -> None:
    server = start(explains_cache=False)
    assert "cache" not in chat(server)
    assert "cache" not in completion_stream(server)
    reply = post(server, "/v1/messages", {"model": "scripted", "messages": MESSAGES, "max_tokens": 5})
    assert "x-cache-report" not in reply.headers


def test_responses_count_and_explain(start: Start, glm_home: Path) -> None:
    server = start(database=LazyDatabase(StorageSettings(), glm_home))
    usage = post(server, "/v1/responses", {"input": "How many switches?", "store": False}).json()["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == 12
    assert usage["cache"]["reason"] == "diverged"


def test_anthropic_counts_apart_and_explains_in_a_header(start: Start) -> None:
    server, body = start(), {"model": "scripted", "messages": MESSAGES, "max_tokens": 5}
    reply = post(server, "/v1/messages", body)
    usage = reply.json()["usage"]
    assert usage["cache_read_input_tokens"] == 12
    report = json.loads(reply.headers["x-cache-report"])
    assert usage["input_tokens"] == report["prompt_tokens"] - 12
    assert report["token"] == "s"
    ends = [e["usage"] for e in events(post(server, "/v1/messages", {**body, "stream": True})) if "usage" in e]
    assert ends[-1]["cache_read_input_tokens"] == 12


def test_ollama_explains_in_a_header(start: Start) -> None:
    reply = post(start(), "/api/chat", {"model": "scripted", "messages": MESSAGES, "stream": False})
    assert json.loads(reply.headers["x-cache-report"])["cached_tokens"] == 12


def test_a_websocket_counts_and_explains(start: Start) -> None:
    with connect(start().url.replace("http", "ws") + "/v1/ws", open_timeout=20) as socket:
        socket.send(json.dumps({"type": "chat", "id": "a", "request": {"messages": MESSAGES}}))
        message: dict[str, Any] = {"type": ""}
        while message["type"] != "done":
            message = json.loads(socket.recv(timeout=20))
    assert message["usage"]["cached_tokens"] == 12
    assert message["usage"]["cache"]["position"] == 14


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (CacheReport(16, 16, "complete"), "only the last block, which is not full or holds the last token"),
        (
            CacheReport(16, 16, "evicted"),
            "what goes on with token 16 ('i') had been computed and has given way to other prompts since",
        ),
        (CacheReport(0, 0, "new"), "nobody had gone on with token 0 ('u'), for this model, adapter and tenant"),
    ],
)
def test_every_reason_has_its_words(start: Start, report: CacheReport, words: str) -> None:
    cache = chat(start(report))["cache"]
    assert words in cache["explanation"]
    assert cache["reason"] == report.reason


def test_what_other_replies_found_does_not_count(start: Start) -> None:
    assert chat(start(), n=2)["cache"]["cached_tokens"] == 12
