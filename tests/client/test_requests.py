"""Requests say everything they were asked to say, in names that the server has; both clients have the same methods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import glm_crush
from glm_crush import AsyncClient, Client
from glm_crush.client import chats, completions, responses
from glm_crush.client.bind import AsyncGroup, SyncGroup
from glm_crush.client.call import Call, PageCall, StreamCall
from glm_crush.client.chat_options import ChatOptions, CompletionOptions
from glm_crush.client.chat_reply import ToolCall
from glm_crush.client.function_tools import call_functions, function_tool
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openai.responses.protocol import ResponseRequest

pytestmark = pytest.mark.requirement("S11")

ROOT = Path(glm_crush.__file__).parent
OURS = {"extra", "thinking", "json_schema"}  # what the client makes other fields of
# Refused by the server unless they ask for nothing; and what the methods themselves say.
NEUTRAL = {"functions", "function_call", "modalities", "audio", "prediction", "verbosity", "store"}
NEUTRAL |= {"metadata", "service_tier", "web_search_options", "suffix"}
RESPONSE_NEUTRAL = {"service_tier", "conversation", "context_management", "prompt", "prompt_cache_options"}
RESPONSE_NEUTRAL |= {"moderation", "background_options", "access_programs", "image"}


def names(options: Any) -> set[str]:
    return {name for base in options.__mro__ for name in getattr(base, "__annotations__", ())}


def test_options_are_what_the_server_honours_no_more_and_no_less() -> None:
    said = {"messages", "stream", "stream_options", "prompt", "input"}
    assert names(ChatOptions) - OURS == set(ChatRequest.model_fields) - NEUTRAL - said
    assert names(CompletionOptions) - OURS == set(CompletionRequest.model_fields) - NEUTRAL - said
    assert names(responses.ResponseOptions) - OURS == set(ResponseRequest.model_fields) - RESPONSE_NEUTRAL - said


VALUES: dict[str, Any] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repetition_penalty"), st.floats(0, 2)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "length_penalty"), st.floats(-2, 2)),
    **dict.fromkeys(("top_k", "seed", "min_tokens"), st.integers(0, 9)),
    **dict.fromkeys(("n", "max_tokens", "max_completion_tokens", "beam_width", "top_logprobs"), st.integers(1, 9)),
    **dict.fromkeys(("prompt_logprobs", "best_of"), st.integers(1, 9)),
    **dict.fromkeys(("ignore_eos", "skip_special_tokens", "use_beam_search", "add_generation_prompt"), st.booleans()),
    **dict.fromkeys(("parallel_tool_calls", "echo"), st.booleans()),
    **dict.fromkeys(("model", "preset", "user", "safety_identifier", "prompt_cache_key"), st.text(max_size=5)),
    "prompt_cache_retention": st.text(max_size=5),
    "stop": st.text(min_size=1, max_size=5) | st.lists(st.text(min_size=1, max_size=5), max_size=3),
    "stop_token_ids": st.lists(st.integers(0, 9), max_size=3),
    "logit_bias": st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=3),
    "early_stopping": st.booleans() | st.just("never"),
    "context_policy": st.sampled_from(["refuse", "truncate"]),
    "tool_choice": st.sampled_from(["auto", "none"]),
}


def filled(options: Any) -> Any:
    known = {name: strategy for name, strategy in VALUES.items() if name in names(options)}
    return st.fixed_dictionaries({}, optional=known)


def through_the_server(model: Any, body: Any) -> dict[str, Any]:
    import msgspec

    return dict(model.model_validate_json(msgspec.json.encode(body)).model_dump(exclude_unset=True))


@given(filled(ChatOptions))
def test_nothing_that_a_chat_is_asked_for_is_lost_on_the_way(options: Any) -> None:
    for call in (chats.chat("Hi", **options), chats.stream_chat("Hi", **options)):
        seen = through_the_server(ChatRequest, call.body)
        expected = {**options, "messages": [{"role": "user", "content": "Hi"}]}
        if "logit_bias" in options:
            expected["logit_bias"] = {str(token): value for token, value in options["logit_bias"].items()}
        assert {name: value for name, value in seen.items() if not name.startswith("stream")} == expected


@given(filled(CompletionOptions), st.text() | st.lists(st.integers(0, 9), min_size=1) | st.lists(st.text(), min_size=1))
def test_nothing_that_a_completion_is_asked_for_is_lost_on_the_way(options: Any, prompt: Any) -> None:
    seen = through_the_server(CompletionRequest, completions.complete(prompt, **options).body)
    expected = {**options, "prompt": prompt}
    if "logit_bias" in options:
        expected["logit_bias"] = {str(token): value for token, value in options["logit_bias"].items()}
    assert seen == expected


@given(filled(responses.ResponseOptions), st.text())
def test_nothing_that_a_response_is_asked_for_is_lost_on_the_way(options: Any, text: str) -> None:
    seen = through_the_server(ResponseRequest, responses.respond(text, **options).body)
    assert seen == {**options, "input": text}


def test_what_only_other_servers_know_goes_through_and_contradictions_do_not() -> None:
    body = chats.chat("Hi", extra={"repetition_window": 5}, json_schema={"type": "object"}, thinking=False).body
    assert body == {
        "messages": [{"role": "user", "content": "Hi"}],
        "repetition_window": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": {"type": "object"}}},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    with pytest.raises(InvalidParameterError, match="give one"):
        chats.chat("Hi", json_schema={}, response_format={"type": "text"})
    with pytest.raises(InvalidParameterError, match="give one"):
        responses.respond("Hi", json_schema={}, text={})


# --- the two clients ---


def methods(client: Any, base: Any) -> Iterator[tuple[str, Any]]:
    """Public names of a client and of its groups, with the signatures of what can be called."""
    for name, value in inspect.getmembers(client):
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, inspect.signature(value)
    module = inspect.getmodule(client)
    for name, group in inspect.getmembers(module, inspect.isclass):
        if issubclass(group, base) and group is not client and group is not base:
            yield from ((f"{name}.{inner}", signature) for inner, signature in methods_of(group))


def methods_of(group: Any) -> Iterator[tuple[str, Any]]:
    for name, value in inspect.getmembers(group, inspect.isfunction):
        if not name.startswith("_"):
            yield name, inspect.signature(value)


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    sync = {name: list(signature.parameters) for name, signature in methods(Client, SyncGroup)}
    waiting = {name: list(signature.parameters) for name, signature in methods(AsyncClient, AsyncGroup)}
    assert sync == waiting
    assert len(sync) > 50


def test_every_method_says_what_it_does_and_shows_its_parameters() -> None:
    for name, _ in methods(Client, SyncGroup):
        group, _, method = name.rpartition(".")
        owner = getattr(inspect.getmodule(Client), group) if group else Client
        assert inspect.getdoc(getattr(owner, method)), name
    assert list(inspect.signature(Client.embed).parameters)[:3] == ["self", "texts", "model"]


def test_the_package_names_the_clients_and_loads_them_only_when_asked() -> None:
    import subprocess
    import sys

    script = (
        "import glm_crush, sys; assert 'httpx2' not in sys.modules; glm_crush.Client; assert 'httpx2' in sys.modules"
    )
    script += "; assert 'numpy' not in sys.modules and 'pydantic' not in sys.modules and 'starlette' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- functions as tools ---


def weather(city: str, days: int = 1) -> dict[str, int]:
    """The weather of a city."""
    if days > 9:
        raise ValueError("nobody knows")
    return {city: days}


def test_a_function_is_described_by_its_name_docstring_and_annotations() -> None:
    assert function_tool(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "city": {"title": "City", "type": "string"},
                    "days": {"default": 1, "title": "Days", "type": "integer"},
                },
                "required": ["city"],
            },
        },
    }


def by_position(city: str, /, days: int) -> None:
    """Cannot be called by names."""


def test_a_function_that_cannot_be_called_by_names_is_no_tool() -> None:
    with pytest.raises(InvalidParameterError, match="by_position"):
        function_tool(by_position)


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        ('{"city": "Lisbon", "days": 2}', '{"Lisbon":2}'),
        ('{"city": "Lisbon", "days": 10}', "error: ValueError: nobody knows"),
        ('{"city": "Lisbon", "days": "many"}', "error: 1 validation error"),
        ('{"city": ', "error: 1 validation error"),
    ],
)
def test_a_call_is_answered_with_the_result_or_with_what_was_wrong(arguments: str, content: str) -> None:
    [message] = call_functions([ToolCall("1", "weather", arguments)], [weather])
    assert message["tool_call_id"] == "1"
    assert str(message["content"]).startswith(content)


def test_a_call_of_a_function_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InvalidParameterError, match="the functions given are weather"):
        call_functions([ToolCall("1", "other", "{}")], [weather])


# --- every endpoint has a method ---

OTHER_DIALECTS = re.compile(r"/api/|/v1/messages|/mcp|/v2/|/rerank$|/score$|/$|/graphql")


def built() -> Iterator[tuple[str, str]]:
    """Method and path of every request that the client can make, with `x` for every argument."""
    from glm_crush.client import (
        batches,
        embeddings,
        files,
        gateway,
        models,
        moderations,
        operations,
        reranking,
        server,
        tokens,
    )

    modules = (chats, completions, responses, batches, embeddings, files, gateway, models, moderations, reranking)
    for module in (*modules, operations, server, tokens):
        for name in module.__all__:
            build = getattr(module, name)
            if not inspect.isfunction(build) or name in ("chat_body", "result_calls"):
                continue
            required = [
                p
                for p in inspect.signature(build).parameters.values()
                if p.default is p.empty and p.kind != p.VAR_KEYWORD
            ]
            call = build(*[str if p.name == "form" else "x" for p in required])
            if inspect.isgenerator(call):
                call.close()
            elif isinstance(call, PageCall):
                yield "GET", call.path
            else:
                assert isinstance(call, (Call, StreamCall))
                yield call.method, call.path
    yield "POST", "/v1/files"  # a flow


def test_every_endpoint_of_the_server_has_a_method(server: str) -> None:
    import httpx2

    document = httpx2.get(f"{server}/openapi.json", headers={"authorization": "Bearer operator"}).json()
    requests = set(built())
    missing = []
    for path, operations in document["paths"].items():
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path))
        for method in operations:
            covered = any(m == method.upper() and pattern.fullmatch(p) for m, p in requests)
            if not covered and not OTHER_DIALECTS.match(path):
                missing.append(f"{method.upper()} {path}")
    assert missing == ["DELETE /admin/v1/keys/{key_id}"]  # `revoke` does the same
