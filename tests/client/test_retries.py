"""What is sent again, when, and what never is: against a real server that fails on purpose."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.client.attempts import Attempts, RetryPolicy
from glm_crush.client.refusals import retry_after_seconds
from glm_crush.errors import (
    DeadlineError,
    EngineError,
    OverloadedError,
    ProtocolError,
    QuotaError,
    RateLimitError,
    RequestError,
    UnreachableError,
)
from tests.client.flaky import CLOSE, answer, flaky_server, stream

pytestmark = pytest.mark.requirement("S11")

REPLY = answer(200, {"id": "1", "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})
FULL = answer(503, {"error": {"message": "full", "code": "engine_overloaded"}}, {"retry-after-ms": "40"})
KEY = answer(200, {"id": "k", "application_id": "a", "name": "n", "status": "active", "scopes": [], "models": []})
CHUNK = '{"id":"1","choices":[{"index":0,"delta":{"content":"Hel"}}]}'


@pytest.mark.parametrize(
    "failure",
    [
        CLOSE,
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        FULL,
        answer(502, {}),
        answer(500, {"error": {"message": "bug", "code": "internal_error"}}),
    ],
    ids=["closed", "cut off", "full", "proxy", "bug"],
)
def test_a_request_that_may_be_repeated_is_sent_again_under_the_same_id(open_client: Any, failure: bytes) -> None:
    with flaky_server([failure, failure, REPLY]) as server:
        client = open_client(server.url)
        assert client.chat("Hi").content == "Hello"
    assert len(client.waits) == 2
    assert len(set(server.headers("x-request-id"))) == 1
    assert server.bodies() == [{"messages": [{"role": "user", "content": "Hi"}]}] * 3


def test_a_client_gives_up_after_its_retries_with_the_last_reason(open_client: Any) -> None:
    with flaky_server([FULL] * 3) as server, pytest.raises(OverloadedError, match="full") as caught:
        open_client(server.url, max_retries=2).chat("Hi")
    assert len(server.requests) == 3
    assert caught.value.retry_after_seconds == 0.04


def test_a_server_that_cannot_be_reached_is_tried_again_and_named_with_a_remedy(open_client: Any) -> None:
    client = open_client("http://127.0.0.1:9", max_retries=3)
    with pytest.raises(UnreachableError, match=r"http://127.0.0.1:9 .* glm serve"):
        client.chat("Hi")
    assert len(client.waits) == 3


@pytest.mark.parametrize("scene", [CLOSE, answer(500, {"error": {"message": "bug"}})], ids=["closed", "bug"])
def test_what_must_not_be_done_twice_is_not_sent_again(open_client: Any, scene: bytes) -> None:
    with flaky_server([scene, KEY]) as server:
        with pytest.raises((UnreachableError, EngineError)):
            open_client(server.url).keys.create("shop")
        assert len(server.requests) == 1


def test_what_must_not_be_done_twice_is_sent_again_when_the_server_says_that_it_did_not_do_it(open_client: Any) -> None:
    with flaky_server([FULL, answer(201, {"id": "a", "name": "shop", "created_at": 1})]) as server:
        assert open_client(server.url).applications.register("shop").name == "shop"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind"),
    [
        (429, "insufficient_quota", {"retry-after": "1", "x-should-retry": "false"}, QuotaError),
        (429, "rate_limit_exceeded", {"retry-after": "61"}, RateLimitError),
        (400, None, {"retry-after": "1"}, RequestError),
    ],
    ids=["told not to", "too long to wait", "wrong"],
)
def test_some_refusals_are_final(
    open_client: Any, status: int, code: str | None, headers: dict[str, str], kind: type[Exception]
) -> None:
    refusal = answer(status, {"error": {"message": "no", "code": code}}, headers)
    with flaky_server([refusal, REPLY]) as server:
        client = open_client(server.url)
        with pytest.raises(kind):
            client.chat("Hi")
        assert len(server.requests) == 1
    assert client.waits == []


def test_a_stream_is_sent_again_until_it_begins_and_never_after(open_client: Any) -> None:
    with flaky_server([FULL, stream(CHUNK, ended=False), stream(CHUNK, "[DONE]")]) as server:
        client = open_client(server.url)
        with client.stream_chat("Hi") as chat:
            assert next(chat).content == "Hel"
            with pytest.raises(UnreachableError, match="broke"):
                next(chat)
        assert len(server.requests) == 2
    assert chat.reply.content == "Hel"


def test_a_stream_without_its_last_event_is_no_whole_reply(open_client: Any) -> None:
    with flaky_server([stream(CHUNK)]) as server, open_client(server.url).stream_chat("Hi") as chat:
        assert next(chat).content == "Hel"
        with pytest.raises(UnreachableError, match="ended before its last event"):
            next(chat)


def test_what_answers_with_something_else_is_named(open_client: Any) -> None:
    page = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>"
    with flaky_server([page, page, stream("<html>")]) as server:
        client = open_client(server.url)
        with pytest.raises(ProtocolError, match="<html>"):
            client.chat("Hi")
        with pytest.raises(ProtocolError, match="stream"), client.stream_chat("Hi") as chat:
            next(chat)
        with pytest.raises(ProtocolError, match="<html>"), client.stream_chat("Hi") as chat:
            next(chat)


def test_silence_is_given_up_and_not_asked_again(open_client: Any, start_server: Any, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=0))
    client = open_client(server.url, timeout_seconds=0.3)
    with pytest.raises(DeadlineError, match=r"nothing came from .* for 0\.3 s"):
        client.chat("Hi")
    assert client.waits == []
    assert server.engine.closed.wait(10)


def test_connections_are_limited(open_client: Any, start_server: Any, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=1))
    client = open_client(server.url, max_connections=1, timeout_seconds=0.3)
    with client.stream_chat("Hi") as chat:
        next(chat)
        with pytest.raises(DeadlineError, match="all 1 connections"):
            client.health()


# --- the policy by itself ---


@given(st.integers(0, 8), st.floats(0.01, 2), st.floats(0.01, 20), st.integers(0, 2**32))
def test_waits_double_up_to_a_limit_and_at_least_half_of_each_is_kept(
    retries: int, first: float, most: float, seed: int
) -> None:
    policy = RetryPolicy(max_retries=retries, first_seconds=first, most_seconds=most, random=random.Random(seed))
    attempts = Attempts(policy, repeatable=True)
    for number in range(retries):
        whole = min(most, first * 2**number)
        wait = attempts.after_failure(sent=True)
        assert wait is not None
        assert whole / 2 <= wait <= whole
    assert attempts.after_failure(sent=True) is None


@given(st.floats(0, 60), st.integers(0, 2**32))
def test_a_server_is_never_asked_again_before_it_wants_to_be(seconds: float, seed: int) -> None:
    attempts = Attempts(RetryPolicy(random=random.Random(seed)), repeatable=False)
    wait = attempts.after_refusal(429, {"retry-after": str(seconds)})
    assert wait is not None
    assert seconds <= wait <= seconds + 0.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_when_to_come_back_is_read_in_every_way_it_is_written(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds
