"""Conversations that are too long, over HTTP: refused, or made to fit by a policy that says what it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E9", "S1")

Start = Callable[..., Any]


def conversation(num_turns: int) -> list[dict[str, str]]:
    """A byte is a token, and the context holds 1,000."""
    messages = [{"role": "system", "content": "be brief"}]
    for turn in range(num_turns):
        messages += [{"role": "user", "content": f"q{turn}" * 20}, {"role": "assistant", "content": f"a{turn}" * 20}]
    return [*messages, {"role": "user", "content": "last question"}]


def post(server: Any, **body: Any) -> httpx2.Response:
    body = {"messages": conversation(15), "max_tokens": 50, **body}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)


def test_by_default_a_conversation_that_is_too_long_is_refused(start_server: Start, scripted_engine: Any) -> None:
    for body in ({}, {"context_policy": "refuse"}):
        error = post(start_server(), **body).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_truncation_leaves_out_the_oldest_turns_and_says_so(start_server: Start) -> None:
    server = start_server()
    response = post(server, context_policy="truncate")
    [prompt] = server.engine.prompts
    assert prompt.startswith("system:be brief|user:q8q8")
    assert prompt.endswith("user:last question|assistant:")
    usage = response.json()["usage"]
    assert usage["context"] == {
        "policy": "truncate",
        "context_length": 1000,
        "prompt_tokens_before": 1700,
        "prompt_tokens": usage["prompt_tokens"],
        "dropped_messages": list(range(1, 17)),
        "shortened_message": None,
        "summary": None,
    }
    assert usage["prompt_tokens"] <= 950
    assert response.headers["x-context"] == (
        f"truncate: 1700 tokens became {usage['prompt_tokens']}, messages 1 to 16 left out"
    )


def test_what_fits_has_no_note(start_server: Start) -> None:
    response = post(start_server(), messages=conversation(3), context_policy="summarise")
    assert "context" not in response.json()["usage"]
    assert "x-context" not in response.headers


def test_a_stream_tells_it_in_a_header_and_in_its_usage(start_server: Start) -> None:
    options = {"include_usage": True}
    response = post(start_server(), context_policy="window", max_tokens=100, stream=True, stream_options=options)
    assert response.headers["x-context"].startswith("window: 1700 tokens became ")
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["usage"]["context"]["dropped_messages"] == list(range(1, 25))  # twelve turns, three jumps


def test_summaries_are_requests_of_their_own_and_used_again(start_server: Start, scripted_engine: Any) -> None:
    engine = scripted_engine(script=lambda prompt: "they spoke" if "Summarise" in prompt else "Hello")
    server = start_server(engine)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        for num_turns in (15, 16):
            messages: Any = conversation(num_turns)
            extra = {"context_policy": "summarise"}
            reply = api.chat.completions.create(model="scripted", messages=messages, max_tokens=50, extra_body=extra)
            assert reply.choices[0].message.content == "Hello"
    kinds = ["summary" if "Summarise" in prompt else "reply" for prompt in engine.prompts]
    assert kinds == ["summary", "summary", "summary", "reply", "reply"]
    assert "system:be brief\n\nSummary of the conversation so far:\nthey spoke|user:q12" in engine.prompts[3]
    assert reply.usage.context["summary"] == "they spoke"
    assert engine.params[0].temperature == 0.0


def test_counting_tokens_leaves_nothing_out(start_server: Start) -> None:
    body = {"messages": conversation(15)}
    count = httpx2.post(f"{start_server().url}/tokenize", json=body, timeout=20).json()["count"]
    assert count == 1700


def test_a_server_may_have_a_policy_of_its_own(tmp_path: Path, loopback_server: Any) -> None:
    url, current = loopback_server
    loaded = load_model(tiny_checkpoint("llama", tmp_path, max_position_embeddings=512), cache_dir=tmp_path / "packed")
    settings = load_settings(flags={"crush.threads": 1, "crush.context_policy": "summarise"})
    model, engine = serve_loaded_model("tiny", loaded, settings)
    current.app = create_app([model], ApiSettings())
    try:
        body = {"messages": conversation(15), "max_tokens": 8, "temperature": 0}
        replies = [httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60) for _ in range(2)]
        refused = httpx2.post(f"{url}/v1/chat/completions", json={**body, "context_policy": "refuse"}, timeout=60)
    finally:
        engine.close()
    assert [reply.status_code for reply in replies] == [200, 200], replies[0].text
    first, second = (reply.json() for reply in replies)
    assert first["usage"]["context"] == second["usage"]["context"]
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    assert refused.status_code == 400
