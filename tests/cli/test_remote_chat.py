"""`glm chat --url` against a real server with a scripted model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from glm_crush.cli.backend import Turn
from glm_crush.cli.remote_backend import ReasoningTags, RemoteBackend
from glm_crush.cli.reply_view import collect_reply
from glm_crush.client import Client
from glm_crush.errors import (
    AuthenticationError,
    EngineError,
    GlmError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
)
from glm_crush.types import SamplingParams

Start = Callable[..., Any]
HI = Turn(messages=[{"role": "user", "content": "Hi"}], params=SamplingParams(max_tokens=None))


def ask(url: str, turn: Turn = HI, *, key: str | None = None, model: str | None = None) -> Any:
    backend = RemoteBackend(Client(url, key, max_retries=0), model=model)
    try:
        return collect_reply(backend.reply(turn))
    finally:
        backend.close()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_reply_comes_with_its_counts_whatever_the_url_looks_like(start_server: Start, suffix: str) -> None:
    text, stats = ask(start_server().url + suffix)
    assert text == "Hello"
    assert (stats.prompt_tokens, stats.completion_tokens, stats.finish_reason) == (18, 5, "stop")


def test_parameters_and_thinking_reach_the_server_and_defaults_do_not(start_server: Start) -> None:
    server = start_server()
    params = SamplingParams(max_tokens=3, top_k=5, seed=9, stop=("x",))
    ask(server.url, Turn(messages=HI.messages, params=params, thinking=False))
    sent = server.engine.params[0]
    assert (sent.max_tokens, sent.top_k, sent.seed, tuple(sent.stop)) == (3, 5, 9, ("x",))
    assert server.engine.prompts == ["user:Hi|enable_thinking=False|assistant:"]


def test_a_conversation_is_sampled_as_a_local_one(start_server: Start) -> None:
    server = start_server()
    backend = RemoteBackend(Client(server.url, max_retries=0))
    list(backend.reply(Turn(messages=HI.messages, params=backend.default_params)))
    backend.close()
    assert (server.engine.params[0].temperature, server.engine.params[0].top_p) == (0.7, 0.9)


def test_the_server_is_told_what_to_do_with_a_long_conversation_and_says_what_it_did(start_server: Start) -> None:
    server = start_server()
    messages: Any = [{"role": "user", "content": f"{i}" * 400} for i in range(4)]
    params = SamplingParams(max_tokens=5)
    with pytest.raises(RequestError, match="the context holds 1000"):
        ask(server.url, Turn(messages=messages, params=params))
    _, stats = ask(server.url, Turn(messages=messages, params=params, context_policy="truncate"))
    assert stats.context_note == "truncate: 1634 tokens became 822, messages 0 to 1 left out"


def test_a_raw_prompt_is_a_completion(start_server: Start) -> None:
    server = start_server()
    ask(server.url, Turn(raw_prompt="abc", params=SamplingParams(max_tokens=None)))
    assert server.engine.prompts == ["abc"]


def test_an_unknown_model_names_those_there_are(start_server: Start) -> None:
    with pytest.raises(ModelNotFoundError, match="it serves scripted"):
        ask(start_server().url, model="other")


def test_no_server_says_how_to_start_one() -> None:
    with pytest.raises(GlmError, match="glm serve"):
        ask("http://127.0.0.1:9")


def test_a_missing_key_says_how_to_give_it(start_server: Start) -> None:
    server = start_server(key="secret")
    with pytest.raises(AuthenticationError, match="--api-key"):
        ask(server.url)
    assert ask(server.url, key="secret")[0] == "Hello"


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (OverloadedError("full"), OverloadedError),
        (EngineError("stopped"), EngineError),
        (RequestError("no"), RequestError),
        (RuntimeError("internal"), EngineError),
    ],
)
def test_a_refusal_becomes_the_same_kind_of_error(
    start_server: Start, scripted_engine: Any, refusal: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        ask(start_server(scripted_engine(refuse=refusal)).url)


def test_an_error_in_the_middle_of_a_reply_is_not_its_end(start_server: Start, scripted_engine: Any) -> None:
    with pytest.raises(EngineError, match="in the middle"):
        ask(start_server(scripted_engine(fail_after=2)).url)


def test_the_verb_talks_to_the_server(start_server: Start, glm: Any) -> None:
    assert glm("chat", "--url", start_server().url, stdin="Hi\n/bye\n").stdout == "Hello\n"


def test_reasoning_is_shown_between_its_tags() -> None:
    tags = ReasoningTags()
    deltas = [("", ""), ("Two ", ""), ("and two.", ""), ("", "4"), ("", ".")]
    assert "".join(tags.text(reasoning, content) for reasoning, content in deltas) == "<think>Two and two.</think>\n4."


def test_without_reasoning_there_are_no_tags() -> None:
    assert ReasoningTags().text("", "4") == "4"
