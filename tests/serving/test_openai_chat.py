"""Chat completions through the real OpenAI client against a real server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.errors import EngineError, OverloadedError

pytestmark = pytest.mark.requirement("S1")

HI = [{"role": "user", "content": "Hi"}]
Start = Callable[..., Any]


def client(server: Any, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, **options)


def post(server: Any, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": HI, **body}, timeout=20)


def events(server: Any, body: dict[str, Any]) -> list[Any]:
    """The decoded `data:` lines of a streamed reply."""
    response = post(server, {"stream": True, **body})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_reply_has_text_reason_and_usage(start_server: Start) -> None:
    server = start_server()
    with client(server) as api:
        reply = api.chat.completions.create(model="scripted", messages=HI)
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "scripted"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == "Hello"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (18, 5, 23)
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    assert server.engine.prompts == ["user:Hi|assistant:"]


def test_a_stream_gives_the_same_text_as_the_whole_reply(start_server: Start) -> None:
    server = start_server()
    with client(server) as api:
        stream = api.chat.completions.create(model="scripted", messages=HI, stream=True)
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"


def test_stream_chunks_are_role_then_text_then_reason_then_usage_then_done(start_server: Start) -> None:
    got = events(start_server(), {"max_tokens": 2, "stream_options": {"include_usage": True}})
    assert got[-1] == "[DONE]"
    assert [chunk["choices"] for chunk in got[:-1]] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "H"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "e"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}],
        [],
    ]
    assert [chunk["usage"] for chunk in got[:-2]] == [None] * 4
    assert got[-2]["usage"] == {
        "prompt_tokens": 18,
        "completion_tokens": 2,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert len({chunk["id"] for chunk in got[:-1]}) == 1
    assert {chunk["object"] for chunk in got[:-1]} == {"chat.completion.chunk"}


def test_without_include_usage_no_chunk_speaks_of_usage(start_server: Start) -> None:
    assert all("usage" not in chunk for chunk in events(start_server(), {})[:-1])


def test_every_parameter_reaches_the_engine(start_server: Start) -> None:
    server = start_server()
    given = {
        "temperature": 0.3,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.2,
        "n": 2,
        "seed": 11,
        "stop": ["x", "y"],
        "stop_token_ids": [5],
        "min_tokens": 1,
        "max_completion_tokens": 9,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "logit_bias": {"65": -100},
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert post(server, given).status_code == 200
    params = server.engine.params[0]
    for name in set(given) - {"stop", "logit_bias", "logprobs", "top_logprobs", "max_completion_tokens"}:
        assert getattr(params, name) == given[name], name
    assert params.stop == ("x", "y")
    assert params.logit_bias == {65: -100.0}
    assert params.logprobs == 3
    assert params.max_tokens == 9


def test_what_a_request_leaves_out_is_the_models_default(start_server: Start) -> None:
    server = start_server()
    post(server, {})
    assert server.engine.params[0].temperature == 0.7
    assert server.engine.params[0].max_tokens is None


def test_n_gives_that_many_choices_whole_and_streamed(start_server: Start) -> None:
    server = start_server()
    assert [choice["index"] for choice in post(server, {"n": 3}).json()["choices"]] == [0, 1, 2]
    texts = {0: "", 1: "", 2: ""}
    for chunk in events(server, {"n": 3})[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "Hello", 1: "Hello", 2: "Hello"}


def test_logprobs_have_token_bytes_and_alternatives(start_server: Start) -> None:
    reply = post(start_server(), {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}).json()
    assert reply["choices"][0]["logprobs"]["content"] == [
        {
            "token": "H",
            "logprob": -1.0,
            "bytes": [72],
            "top_logprobs": [
                {"token": "A", "logprob": -0.5, "bytes": [65]},
                {"token": "B", "logprob": -9999.0, "bytes": [66]},
            ],
        }
    ]


def test_streamed_logprobs_are_those_of_the_new_tokens(start_server: Start) -> None:
    chunks = events(start_server(), {"logprobs": True, "max_tokens": 2})[:-1]
    tokens = [
        entry["token"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for entry in choice["logprobs"]["content"]
    ]
    assert tokens == ["H", "e"]


def test_content_may_be_text_parts_and_developer_is_a_system_message(start_server: Start) -> None:
    server = start_server()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    post(server, {"messages": [{"role": "developer", "content": "S"}, {"role": "user", "content": parts}]})
    assert server.engine.prompts == ["system:S|user:ab|assistant:"]


def test_chat_template_kwargs_reach_the_template(start_server: Start) -> None:
    server = start_server()
    post(server, {"chat_template_kwargs": {"enable_thinking": False}})
    assert server.engine.prompts == ["user:Hi|enable_thinking=False|assistant:"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "x", "nme": "y"}]}, "messages[0].nme"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"temprature": 1}, "temprature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"temperature": 2.1}, "temperature"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "12"}]}, "messages[0].tool_call_id"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
    ],
)
def test_what_is_not_honoured_is_a_400_that_names_it(start_server: Start, body: dict[str, Any], param: str) -> None:
    response = post(start_server(), body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)
    assert param.split("[")[0] in error["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "{'a': 1}", '{"messages": "\ud800"}'])
def test_a_body_that_is_no_request_is_a_400(start_server: Start, body: str) -> None:
    server = start_server()
    raw = body.encode("utf-8", errors="surrogatepass")
    response = httpx2.post(f"{server.url}/v1/chat/completions", content=raw, timeout=20)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(start_server: Start) -> None:
    with client(start_server()) as api, pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model="other", messages=HI)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_a_prompt_that_does_not_fit_is_a_context_length_error(start_server: Start) -> None:
    with client(start_server()) as api, pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x" * 5000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


def test_a_full_queue_says_when_to_come_back(start_server: Start, scripted_engine: Any) -> None:
    engine = scripted_engine(refuse=OverloadedError("8 requests wait; the limit is 8", retry_after_seconds=2.5))
    response = post(start_server(engine), {"stream": True})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert response.headers["retry-after-ms"] == "2500"
    assert response.json()["error"]["code"] == "engine_overloaded"


def test_a_stopped_engine_is_a_503_with_retry_after(start_server: Start, scripted_engine: Any) -> None:
    response = post(start_server(scripted_engine(refuse=EngineError("the engine stopped"))), {})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_an_error_after_the_stream_began_is_one_event_and_the_client_raises(
    start_server: Start, scripted_engine: Any
) -> None:
    server = start_server(scripted_engine(fail_after=2))
    got = events(server, {})
    assert got[-1]["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(got)
    with client(server) as api, pytest.raises(openai.APIError):
        list(api.chat.completions.create(model="scripted", messages=HI, stream=True))


def test_an_internal_error_says_nothing_of_internals(start_server: Start, scripted_engine: Any) -> None:
    response = post(start_server(scripted_engine(fail_after=0)), {})
    assert response.status_code == 500
    assert "secret" not in response.text


def test_a_client_that_leaves_a_stream_ends_its_generation(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=1))
    with client(server) as api:
        stream = api.chat.completions.create(model="scripted", messages=HI, stream=True)
        next(iter(stream))
        assert server.engine.holding.wait(20)
        stream.close()
        assert server.engine.closed.wait(20)


def test_a_client_that_leaves_while_waiting_ends_its_generation(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=0))
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": HI}, timeout=0.5)
    assert server.engine.closed.wait(20)


def test_a_silent_stream_sends_comment_lines(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=1), ping_interval_seconds=0.02)
    body = {"messages": HI, "stream": True}
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=20) as response:
        lines = iter(response.iter_lines())
        assert next(line for line in lines if line.startswith(":")) == ": ping"
