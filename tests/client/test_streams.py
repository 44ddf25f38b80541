"""Streams end the work they stand for; errors come as the classes they have in the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush import AsyncClient, Client, errors
from glm_crush.client.chat_reply import ChatReader
from glm_crush.client.lines import LineCutter
from glm_crush.error_codes import ERROR_CODES

pytestmark = pytest.mark.requirement("S11")


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
def test_leaving_a_stream_frees_the_engine(
    open_client: Any, start_server: Any, scripted_engine: Any, method: str
) -> None:
    server = start_server(scripted_engine(hold_after=2))
    with getattr(open_client(server.url), method)("Hi") as stream:
        next(stream)
        next(stream)
        assert not server.engine.closed.is_set()
    assert server.engine.closed.wait(10)
    assert list(stream) == []


def test_a_loop_that_is_left_frees_the_engine_without_a_block(start_server: Any, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=2))
    with Client(server.url) as client:
        for delta in client.stream_chat("Hi"):
            assert delta.content == "H"
            break
        assert server.engine.closed.wait(10)


def test_an_async_task_that_is_cancelled_frees_the_engine(start_server: Any, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(hold_after=2))

    async def talk() -> None:
        async with AsyncClient(server.url) as client, client.stream_chat("Hi") as stream:
            async for _ in stream:
                pass

    async def main() -> None:
        task = asyncio.create_task(talk())
        await asyncio.to_thread(server.engine.holding.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert server.engine.closed.wait(10)


def test_nothing_is_sent_before_a_stream_is_entered(open_client: Any) -> None:
    stream = open_client("http://127.0.0.1:9", max_retries=0).stream_chat("Hi")
    with pytest.raises(errors.UnreachableError), stream:
        pass


def test_an_error_in_the_middle_of_a_reply_is_not_its_end(
    open_client: Any, start_server: Any, scripted_engine: Any
) -> None:
    server = start_server(scripted_engine(fail_after=2))
    with open_client(server.url).stream_chat("Hi") as stream:
        assert [next(stream).content, next(stream).content] == ["H", "e"]
        with pytest.raises(errors.EngineError, match="in the middle of the reply"):
            next(stream)


@pytest.mark.parametrize("kind", [row[0] for row in ERROR_CODES], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_every_error_of_the_server_is_the_same_error_here(
    open_client: Any, start_server: Any, scripted_engine: Any, kind: type[errors.GlmError], streamed: bool
) -> None:
    same = {errors.AccessError: errors.AccessDeniedError}  # both are a 403
    client = open_client(start_server(scripted_engine(refuse=kind("the reason"))).url, max_retries=0)
    ask = client.stream_chat("Hi").__next__ if streamed else lambda: client.chat("Hi")
    with pytest.raises(errors.GlmError, match="the reason") as caught:
        ask()
    assert type(caught.value) is same.get(kind, kind)
    assert str(caught.value.request_id).startswith("req_")


@pytest.mark.parametrize("kind", [errors.RateLimitError, errors.OverloadedError])
def test_an_error_says_when_to_come_back(open_client: Any, start_server: Any, scripted_engine: Any, kind: Any) -> None:
    refuse = kind("later", retry_after_seconds=7.0)
    client = open_client(start_server(scripted_engine(refuse=refuse)).url, max_retries=0)
    with pytest.raises(kind) as caught:
        client.chat("Hi")
    assert caught.value.retry_after_seconds == 7.0


def test_an_error_names_the_parameter(open_client: Any, start_server: Any) -> None:
    client = open_client(start_server().url)
    with pytest.raises(errors.InvalidParameterError, match="top_p is 3") as caught:
        client.chat("Hi", top_p=3.0)
    assert caught.value.parameter == "top_p"
    with pytest.raises(errors.InvalidParameterError, match="did you mean temperature") as caught:
        client.chat("Hi", temprature=3.0)
    assert caught.value.parameter == "temprature"


def test_a_missing_key_says_how_to_give_it(open_client: Any, start_server: Any, monkeypatch: Any) -> None:
    url = start_server(key="secret").url
    with pytest.raises(errors.AuthenticationError, match="GLM_API_KEY"):
        open_client(url).chat("Hi")
    assert open_client(url, "secret").chat("Hi").content == "Hello"
    monkeypatch.setenv("GLM_API_KEY", "secret")
    assert open_client(url).chat("Hi").content == "Hello"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_may_have_what_other_clients_want_behind_it(
    open_client: Any, start_server: Any, suffix: str
) -> None:
    assert open_client(start_server().url + suffix).health()


@pytest.mark.parametrize("url", ["localhost:4600", "ftp://here", "http://", ""])
def test_an_address_that_is_none_is_refused_at_once(open_client: Any, url: str) -> None:
    with pytest.raises(errors.ConfigError, match="url is"):
        open_client(url)


def test_headers_and_limits_can_differ_for_one_call(open_client: Any, start_server: Any) -> None:
    client = open_client(start_server(key="secret").url, "secret", headers={"x-request-id": "mine"})
    quick = client.with_options(timeout_seconds=30, max_retries=0, headers={"authorization": "Bearer wrong"})
    with pytest.raises(errors.AuthenticationError) as caught:
        quick.chat("Hi")
    assert caught.value.request_id == "mine"
    assert client.chat("Hi").content == "Hello"


@given(st.lists(st.text(st.characters(blacklist_characters="\n", codec="utf-8"), min_size=1)), st.data())
def test_lines_are_cut_at_line_feeds_only_wherever_the_pieces_end(lines: list[str], data: Any) -> None:
    whole = "\n".join(lines).encode()
    cutter, found = LineCutter(), []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += cutter.cut(whole[:size])
        whole = whole[size:]
    found += cutter.rest()
    assert found == [line for line in lines if line.encode().strip()]


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
def test_reasoning_is_read_under_the_names_that_servers_give_it(names: tuple[str, ...]) -> None:
    reader = ChatReader()
    deltas = [dict.fromkeys(names, text) for text in ("Two ", "and two.")] + [{"content": "4"}]
    chunks = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    events = [event for chunk in chunks for event in reader.read(chunk)]
    assert [(event.reasoning, event.content) for event in events] == [("Two ", ""), ("and two.", ""), ("", "4")]
    assert (reader.whole().reasoning, reader.whole().content) == ("Two and two.", "4")
