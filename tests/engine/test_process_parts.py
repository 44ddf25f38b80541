"""The parts of the engine process that need no process: frames, second runs, the plan of restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.engine.metrics import EngineMetrics, sum_of_metrics
from glm_crush.engine.output import RequestDelta, RequestStats
from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.engine.process.open_requests import OpenRequests
from glm_crush.engine.process.restarts import RestartPolicy
from glm_crush.engine.process.wire import (
    FrameError,
    FrameReader,
    Status,
    Step,
    Submit,
    WireError,
    decode_from_child,
    decode_from_parent,
    encode,
)
from glm_crush.engine.stream import TokenStream
from glm_crush.errors import ContextLengthError, DeadlineError, EngineError, GlmError, OverloadedError
from glm_crush.types import CacheReport, SamplingParams, StructuredOutput, TokenLogprobs

pytestmark = pytest.mark.requirement("E4", "S9")

STATS = RequestStats(5, 2, 0, 0.1, None, 0.3, 4, CacheReport(4, 4, "diverged", 7, 8))
FULL = RequestDelta(
    "a", 1, (3, 4), "cd", (TokenLogprobs(3, -0.5, ((3, -0.5), (9, float("-inf")))),), "abort", "x", (None,), STATS
)


def body_of(frame: bytes) -> bytes:
    (body,) = FrameReader().feed(frame)
    return body


def test_a_step_arrives_as_it_was_sent():
    step = Step([RequestDelta("a", 0, (1,), "ü"), FULL], Status(3, 4, 0.5, EngineMetrics(num_steps=7)))
    assert decode_from_child(body_of(encode(step))) == step


def test_the_error_of_one_reply_arrives_with_its_message():
    delta = RequestDelta("a", 0, (), "", finish_reason="abort", error=EngineError("no token can be drawn"))
    (arrived,) = decode_from_child(body_of(encode(Step([delta])))).deltas
    assert isinstance(arrived.error, EngineError)
    assert str(arrived.error) == "no token can be drawn"
    late = RequestDelta("a", 0, (), "", finish_reason="abort", error=DeadlineError("too late"))
    assert isinstance(decode_from_child(body_of(encode(Step([late])))).deltas[0].error, DeadlineError)


def test_parameters_arrive_as_they_were_sent():
    params = SamplingParams(
        temperature=0.5,
        seed=2**64 - 1,
        stop=["a", "b"],
        stop_token_ids=[5],
        logit_bias={3: -1.5},
        structured=StructuredOutput.json_object(),
        max_tokens=None,
    )
    submit = Submit("a", b"\x01\0\0\0", params, 3, "salt")
    assert decode_from_parent(body_of(encode(submit))).params == params


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthError("too long", parameter="prompt"),
        OverloadedError("full", retry_after_seconds=7.0),
        EngineError("gone"),
        GlmError("any"),
    ],
)
def test_our_errors_arrive_with_all_they_carry(error: GlmError):
    arrived = WireError.of(error).exception()
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_any_other_error_arrives_as_one_of_the_engine():
    arrived = WireError.of(ValueError("kernel on fire")).exception()
    assert type(arrived) is EngineError
    assert str(arrived) == "ValueError: kernel on fire"


@given(st.lists(st.binary(max_size=30), max_size=6), st.data())
def test_frames_are_the_same_however_their_bytes_are_cut(bodies: list[bytes], data: Any):
    stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    reader, seen = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        seen += reader.feed(stream[:size])
        stream = stream[size:]
    assert seen == bodies


def test_what_is_no_message_is_refused():
    with pytest.raises(FrameError, match="3 bytes that are no message"):
        decode_from_child(b"abc")
    with pytest.raises(FrameError, match="no message"):
        decode_from_parent(b"\xc1")
    with pytest.raises(FrameError, match="announces 4294967295 bytes"):
        list(FrameReader().feed(b"\xff\xff\xff\xff"))


def make_request(request_id: str = "a", *, resume: bool = False, n: int = 1) -> OpenRequest:
    loop = asyncio.new_event_loop()
    loop.close()
    return OpenRequest(TokenStream(loop), Submit(request_id, b"", SamplingParams(n=n)), resume, patience_until=10.0)


def test_what_no_child_was_given_waits_no_longer_because_one_died_while_it_loaded():
    requests = OpenRequests()
    requests.add(make_request("sent"))
    requests.take_unsent(0.0)
    requests.add(make_request("unsent"))
    for death in range(5):
        assert requests.after_death("gone", patience_until=20.0 + death) == []
    ((_, _, error),) = requests.expire(10.0, retry_after_seconds=1.0)
    assert isinstance(error, OverloadedError)
    assert requests.expire(19.9, retry_after_seconds=1.0) == []
    assert len(requests.expire(20.0, retry_after_seconds=1.0)) == 1


def cut(tokens: list[int], sizes: list[int]) -> list[RequestDelta]:
    """The reply in deltas of these sizes; each token is one letter, except that multiples of 3 hold theirs back."""
    deltas, held, start = [], "", 0
    for size in [*sizes, len(tokens)]:
        part, text = tokens[start : start + size], ""
        for token in part:
            held += chr(ord("a") + token)
            if token % 3:
                text, held = text + held, ""
        start += size
        if part:
            last = start >= len(tokens)
            deltas.append(
                RequestDelta("a", 0, tuple(part), text + (held if last else ""), None, "length" if last else None)
            )
        if start >= len(tokens):
            break
    return deltas


@given(st.lists(st.integers(0, 25), min_size=1, max_size=20), st.data())
def test_a_second_run_goes_on_exactly_where_the_first_stood_however_both_are_cut(tokens: list[int], data: Any):
    sizes = st.lists(st.integers(1, 8), max_size=20)
    first, second = cut(tokens, data.draw(sizes)), cut(tokens, data.draw(sizes))
    request = make_request(resume=True)
    seen = [request.absorb(delta) for delta in first[: data.draw(st.integers(0, len(first) - 1))]]
    request.start_again(0.0)
    seen += [request.absorb(delta) for delta in second]
    given_out = [delta for delta in seen if delta is not None]
    assert [token for delta in given_out for token in delta.token_ids] == tokens
    assert "".join(delta.text for delta in given_out) == "".join(delta.text for delta in first)
    assert request.num_open == 0


def test_a_second_run_that_says_something_else_is_an_error():
    request = make_request(resume=True)
    request.absorb(RequestDelta("a", 0, (1, 2), "bc"))
    request.start_again(0.0)
    with pytest.raises(EngineError, match="other tokens"):
        request.absorb(RequestDelta("a", 0, (1, 3), "bd"))


def test_a_reply_that_had_ended_is_not_given_out_again():
    request = make_request(resume=True, n=2)
    request.absorb(RequestDelta("a", 0, (1,), "b", finish_reason="length"))
    request.start_again(0.0)
    assert request.absorb(RequestDelta("a", 0, (1,), "b", finish_reason="length")) is None
    assert request.num_open == 1


def test_after_two_deaths_a_request_is_sent_alone_until_it_has_begun():
    requests = OpenRequests()
    for name in "abc":
        requests.add(make_request(name))
    for _ in range(2):
        assert [r.submit.request_id for r in requests.take_unsent(0.0)] == ["a", "b", "c"]
        requests.after_death("It died", patience_until=20.0)
    assert [r.submit.request_id for r in requests.take_unsent(0.0)] == ["a"]
    assert requests.take_unsent(0.0) == []
    requests.absorb([RequestDelta("a", 0, (1,), "b")])
    assert [r.submit.request_id for r in requests.take_unsent(0.0)] == ["b"]
    deliveries = requests.after_death("It died", patience_until=30.0)
    assert [str(error) for _, _, error in deliveries] == [
        "It died in the middle of the reply; send the request again.",
        "It died, as 2 before it did with this request; change it or send it later.",
    ]
    assert [r.submit.request_id for r in requests.take_unsent(0.0)] == ["c"]


def test_a_process_that_had_lived_is_started_again_at_once_and_one_that_had_not_later_and_later():
    policy = RestartPolicy(max_per_minute=100)
    assert policy.next_start(0.0, lived_seconds=5.0) == 0.0
    assert [policy.next_start(0.0, lived_seconds=0.1) for _ in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    assert policy.next_start(10.0, lived_seconds=5.0) == 10.0


def test_beyond_the_limit_the_next_start_waits_until_a_minute_has_passed():
    policy = RestartPolicy(max_per_minute=2)
    starts = [policy.next_start(now, lived_seconds=5.0) for now in (0.0, 10.0, 20.0, 65.0, 75.0)]
    assert starts == [0.0, 10.0, 60.0, 70.0, 120.0]


def test_counters_of_two_engines_add_up():
    first = EngineMetrics(num_steps=2, step_seconds=0.5, num_finished={"stop": 1, "length": 0, "abort": 2})
    second = EngineMetrics(num_steps=3, step_seconds=0.25, num_finished={"stop": 4, "length": 1, "abort": 0})
    total = sum_of_metrics(first, second)
    assert (total.num_steps, total.step_seconds) == (5, 0.75)
    assert total.num_finished == {"stop": 5, "length": 1, "abort": 2}
