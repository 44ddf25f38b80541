"""The Messages API through the real Anthropic client: scripted replies for the shape, tiny models for the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from glm_crush.config import ApiSettings
from glm_crush.errors import EngineError, OverloadedError
from glm_crush.serving.app import create_app

pytestmark = pytest.mark.requirement("S2")

HI: list[Any] = [{"role": "user", "content": "Hi"}]
FLAG = {
    "name": "set_flag",
    "description": "Sets a flag.",
    "input_schema": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
        "required": ["on", "colour"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
Start = Callable[..., Any]


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0, timeout=60)


def create(server: Any, **options: Any) -> Any:
    with client(server.url) as api:
        return api.messages.create(**{"model": "scripted", "max_tokens": 100, "messages": HI, **options})


def post(server: Any, body: dict[str, Any], path: str = "/v1/messages", **options: Any) -> httpx2.Response:
    given = {"model": "scripted", "max_tokens": 100, "messages": HI, **body}
    body = {name: value for name, value in given.items() if value is not ...}
    return httpx2.post(f"{server.url}{path}", json=body, timeout=20, **options)


def events(server: Any, body: dict[str, Any]) -> list[Any]:
    """The decoded events of a stream; each is named by its type."""
    response = post(server, {"stream": True, **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    decoded = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        decoded.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {decoded[-1]['type']}"
    return decoded


def test_a_message_has_content_reason_usage_and_the_requests_id(start_server: Start) -> None:
    server = start_server()
    reply = create(server)
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", "scripted")
    assert reply.id.startswith("msg_")
    assert reply._request_id.startswith("req_")
    assert [(block.type, block.text) for block in reply.content] == [("text", "Hello")]
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.cache_read_input_tokens) == (40, 5, 0)
    assert server.engine.prompts == ["user:Hi|enable_thinking=False|assistant:"]


def test_a_stream_is_start_ping_block_deltas_stops_in_this_order(start_server: Start) -> None:
    got = events(start_server(), {"max_tokens": 2})
    start = got[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["input_tokens"]) == ([], None, 40)
    assert got[1:-2] == [
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "H"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "e"}},
        {"type": "content_block_stop", "index": 0},
    ]
    assert got[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert got[-2]["usage"]["output_tokens"] == 2
    assert got[-1] == {"type": "message_stop"}


def test_the_streaming_helper_gives_the_text_and_the_whole_message(start_server: Start) -> None:
    with (
        client(start_server().url) as api,
        api.messages.stream(model="scripted", max_tokens=100, messages=HI) as stream,
    ):
        assert "".join(stream.text_stream) == "Hello"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 5)


def test_the_async_client_works_the_same(start_server: Start) -> None:
    server = start_server()

    async def run() -> tuple[str, str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="unused", max_retries=0) as api:
            whole = await api.messages.create(model="scripted", max_tokens=100, messages=HI)
            async with api.messages.stream(model="scripted", max_tokens=100, messages=HI) as stream:
                streamed = [text async for text in stream.text_stream]
            return whole.content[0].text, "".join(streamed)  # type: ignore[union-attr]

    assert asyncio.run(run()) == ("Hello", "Hello")


def test_system_is_text_or_blocks_and_blocks_of_a_message_are_joined(start_server: Start) -> None:
    server = start_server()
    text = {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}
    create(server, system="Be brief.")
    create(server, system=[text, {"type": "text", "text": "brief."}])
    create(
        server, messages=[{"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}]
    )
    rest = "|enable_thinking=False|assistant:"
    assert server.engine.prompts == [
        f"system:Be brief.|user:Hi{rest}",
        f"system:Be\nbrief.|user:Hi{rest}",
        f"user:A\nB{rest}",
    ]


def test_messages_of_one_role_in_a_row_are_one_turn_and_a_last_one_of_the_assistant_begins_the_reply(
    start_server: Start,
) -> None:
    server = start_server()
    create(server, messages=[*HI, *HI, {"role": "assistant", "content": "I am"}])
    assert server.engine.prompts == ["user:Hi\n\nHi|enable_thinking=False|prefill=I am|assistant:"]


def test_every_sampling_parameter_arrives_and_what_is_left_out_is_the_models_default(start_server: Start) -> None:
    server = start_server()
    options = {"temperature": 0.5, "top_k": 7, "top_p": 0.9}
    create(server, extra_body=options, stop_sequences=["END"], metadata={"user_id": "u"}, service_tier="auto")
    create(server)
    given, default = server.engine.params
    assert (given.temperature, given.top_k, given.top_p, given.stop, given.max_tokens) == (0.5, 7, 0.9, ("END",), 100)
    assert (default.temperature, default.stop) == (0.7, ())


def test_edits_of_the_context_that_take_nothing_out_pass(start_server: Start) -> None:
    edits = [{"type": "clear_thinking_20251015", "keep": "all"}]
    assert post(start_server(), {"context_management": {"edits": edits}}).status_code == 200


def test_a_limit_beyond_the_context_ends_the_reply_where_the_context_ends(start_server: Start) -> None:
    server = start_server()
    assert create(server, max_tokens=100_000, messages=HI).stop_reason == "end_turn"
    assert server.engine.params[0].max_tokens == 960


def test_tokens_are_counted_without_a_reply(start_server: Start) -> None:
    server = start_server()
    with client(server.url) as api:
        counted = api.messages.count_tokens(model="scripted", messages=HI, system="Be brief.")
    assert counted.input_tokens == 40 + len("system:Be brief.|")
    assert server.engine.prompts == []


def test_the_models_are_listed_for_this_client_too(start_server: Start) -> None:
    with client(start_server().url) as api:
        [model] = api.models.list()
        assert (model.id, model.type, model.display_name) == ("scripted", "model", "scripted")
        assert model.created_at.year == 2023
        assert api.models.retrieve("scripted").id == "scripted"


def test_the_key_is_taken_from_either_header(start_server: Start) -> None:
    server = start_server(key="secret")
    for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
        assert post(server, {}, headers=headers).status_code == 200
    with client(server.url) as api, pytest.raises(anthropic.AuthenticationError) as caught:
        api.messages.create(model="scripted", max_tokens=1, messages=HI)
    assert caught.value.type == "authentication_error"
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index, call-overload]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}
CHANGED = {"type": "thinking", "thinking": "", "signature": "glm-text-x"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": ...}, "max_tokens is required"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"model": ...}, "model is required"),
        ({"messages": []}, "messages is []"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0] is a part of type 'image'"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}]}
                ]
            },
            "messages[0].content[0].content[0] is a part of type 'image'",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text is required"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0] is"),
        ({"temperature": 1.5}, "temperature is 1.5"),
        ({"stop_sequences": [""]}, "stop_sequences contains an empty string"),
        ({"max_token": 3}, "did you mean max_tokens?"),
        ({"container": "c"}, "container is 'c', which this server does not support"),
        ({"speed": "fast"}, "speed is 'fast'"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers is"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "edits[0] is 'clear_tool_uses"),
        ({"thinking": {"type": "enabled"}}, "needs budget_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, "takes no budget_tokens"),
        (
            {"thinking": {"type": "adaptive"}, "messages": [*HI, {"role": "assistant", "content": "I"}]},
            "cannot think first",
        ),
        ({"output_config": {"effort": "low"}}, "output_config.effort is 'low'"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}}, "output_config.format"),
        ({"tools": [{"type": "web_search_20250305", "name": "w", "input_schema": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type is 'web_search_20250305'"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name is 'a b'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice is 'any' but there are no tools"),
        ({"tools": [NOW], "tool_choice": {"type": "tool", "name": "x"}}, "the tools are now"),
        ({"tools": [NOW], "tool_choice": {"type": "any", "name": "now"}}, "give the type 'tool'"),
        ({"tools": [NOW]}, "tools are given, which scripted cannot call"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "glm-text-x"}]}
                ]
            },
            "messages[0].content[0].signature was changed",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(start_server: Start, body: dict[str, Any], words: str) -> None:
    response = post(start_server(), body)
    error = response.json()
    assert response.status_code == 400, error
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert words in error["error"]["message"]


@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        ({"refuse": OverloadedError("full", retry_after_seconds=2)}, 503, "overloaded_error"),
        ({"refuse": EngineError("stopped")}, 503, "overloaded_error"),
        ({"refuse": RuntimeError("secret internals")}, 500, "api_error"),
    ],
)
def test_every_failure_has_anthropics_shape(
    start_server: Start, scripted_engine: Any, options: Any, status: int, kind: str
) -> None:
    for stream in (False, True):
        response = post(start_server(scripted_engine(**options)), {"stream": stream})
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert "secret" not in response.text


def test_an_unknown_model_path_or_version_is_an_error_in_this_shape(start_server: Start) -> None:
    server = start_server()
    assert post(server, {"model": "other"}).json()["error"]["type"] == "not_found_error"
    assert post(server, {}, path="/v1/messages/batches").json()["error"]["type"] == "not_found_error"
    old = post(server, {}, headers={"anthropic-version": "2023-01-01"})
    assert old.status_code == 400
    assert "2023-06-01" in old.json()["error"]["message"]


def test_a_stream_that_fails_ends_in_an_error_event(start_server: Start, scripted_engine: Any) -> None:
    got = events(start_server(scripted_engine(fail_after=2)), {})
    assert got[-1]["type"] == "error"
    assert got[-1]["error"]["type"] == "api_error"


def test_a_silent_stream_is_pinged_and_a_client_that_goes_away_ends_it(
    start_server: Start, scripted_engine: Any
) -> None:
    engine = scripted_engine(hold_after=1)
    server = start_server(engine, ping_interval_seconds=0.01)
    body = {"model": "scripted", "max_tokens": 10, "messages": HI, "stream": True}
    with httpx2.stream("POST", f"{server.url}/v1/messages", json=body, timeout=20) as response:
        lines = (line for line in response.iter_lines() if line == "event: ping")
        assert [next(lines) for _ in range(3)] == ["event: ping"] * 3
    assert engine.closed.wait(20)


@pytest.fixture
def api(glm_models: Any, loopback_server: Any) -> Iterator[anthropic.Anthropic]:
    url, current = loopback_server
    current.app = create_app(glm_models, ApiSettings())
    with client(url) as api:
        yield api


MODELS = pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])
CHOICES: Any = [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "set_flag"}]


@MODELS
@pytest.mark.parametrize("choice", CHOICES)
def test_a_call_is_a_block_whose_input_keeps_the_schema_streamed_or_not(
    api: anthropic.Anthropic, model: str, choice: Any
) -> None:
    choice = {**choice, "disable_parallel_tool_use": True}
    options: Any = {"model": model, "max_tokens": 150, "messages": HI, "tools": [FLAG], "tool_choice": choice}
    whole = api.messages.create(**options, extra_body={"top_k": 1})
    [call] = whole.content
    assert (whole.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "set_flag")
    assert call.id.startswith("toolu_")
    assert set(call.input) == {"on", "colour"}
    with api.messages.stream(**options, extra_body={"top_k": 1}) as stream:
        final = stream.get_final_message()
    assert [(block.type, block.input) for block in final.content] == [("tool_use", call.input)]  # type: ignore[union-attr]
    assert final.stop_reason == "tool_use"


def test_calls_and_their_results_can_be_sent_back(api: anthropic.Anthropic) -> None:
    for model in ("glm45", "glm47", "plain"):
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        tools: Any = [NOW]
        reply = api.messages.create(model=model, max_tokens=100, messages=HI, tools=tools, tool_choice=choice)
        [call] = reply.content
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "noon", "is_error": False}  # type: ignore[union-attr]
        messages: Any = [*HI, reply.to_param(), {"role": "user", "content": [result, {"type": "text", "text": "And?"}]}]
        again = api.messages.create(model=model, max_tokens=3, messages=messages, tools=tools)
        assert again.usage.output_tokens > 0


def test_thinking_is_a_block_of_its_own_with_a_signature(api: anthropic.Anthropic) -> None:
    options: Any = {"model": "glm47", "max_tokens": 30, "messages": HI, "extra_body": {"top_k": 1}}
    whole = api.messages.create(**options, thinking={"type": "adaptive"})
    [thinking, *_] = whole.content
    assert thinking.type == "thinking"
    assert thinking.thinking
    assert thinking.signature.startswith("glm-")
    with api.messages.stream(**options, thinking={"type": "adaptive"}) as stream:
        [streamed, *_] = stream.get_final_message().content
    assert (streamed.thinking, streamed.signature) == (thinking.thinking, thinking.signature)  # type: ignore[union-attr]


def test_thinking_that_is_left_out_comes_back_in_its_signature(api: anthropic.Anthropic) -> None:
    options: Any = {"model": "glm47", "max_tokens": 30, "messages": HI, "extra_body": {"top_k": 1}}
    shown = api.messages.create(**options, thinking={"type": "adaptive"})
    left_out = api.messages.create(**options, thinking={"type": "adaptive", "display": "omitted"})
    assert left_out.content[0].thinking == ""  # type: ignore[union-attr]
    counts = []
    for reply in (shown, left_out):
        messages: Any = [*HI, {"role": "assistant", "content": [reply.content[0], {"type": "text", "text": "A"}]}, *HI]
        counts.append(api.messages.count_tokens(model="glm47", messages=messages).input_tokens)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("tools", [[], [FLAG]])
def test_thinking_ends_when_its_budget_is_used_up(api: anthropic.Anthropic, tools: Any) -> None:
    reply = api.messages.create(
        model="glm47",
        max_tokens=40,
        messages=HI,
        thinking={"type": "enabled", "budget_tokens": 5},
        tools=tools,
        extra_body={"top_k": 1},
    )
    assert reply.content[0].type == "thinking"
    assert reply.usage.output_tokens_details.thinking_tokens == 5  # type: ignore[union-attr]
    assert len(reply.content) > 1


def test_without_thinking_asked_for_the_model_answers_at_once(api: anthropic.Anthropic) -> None:
    reply = api.messages.create(model="glm47", max_tokens=10, messages=HI, extra_body={"top_k": 1})
    assert [block.type for block in reply.content] == ["text"]


@MODELS
def test_an_output_format_is_kept_to_the_letter(api: anthropic.Anthropic, model: str) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    reply = api.messages.create(model=model, max_tokens=60, messages=HI, output_config=config)
    assert json.loads(reply.content[0].text)["colour"] in ("red", "green")  # type: ignore[union-attr]


def test_a_stop_sequence_is_named_and_a_prompt_sent_again_is_read_from_the_cache(api: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "Say " * 30}]
    options: Any = {"model": "plain", "max_tokens": 20, "messages": messages, "extra_body": {"top_k": 1}}
    first = api.messages.create(**options)
    text = first.content[0].text  # type: ignore[union-attr]
    stop = next(character for character in text if character.strip())
    again = api.messages.create(**options, stop_sequences=[stop])
    assert (again.stop_reason, again.stop_sequence) == ("stop_sequence", stop)
    assert again.usage.cache_read_input_tokens > 0
    total = again.usage.input_tokens + again.usage.cache_read_input_tokens
    assert total == first.usage.input_tokens + first.usage.cache_read_input_tokens  # type: ignore[operator]
