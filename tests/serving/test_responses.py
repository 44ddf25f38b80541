"""/v1/responses through the real OpenAI client: created, streamed, chained, kept, cancelled, deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import StorageSettings
from glm_crush.errors import ContextLengthError, OverloadedError
from glm_crush.storage.lazy import LazyDatabase

pytestmark = pytest.mark.requirement("S1")

Start = Callable[..., Any]


@pytest.fixture
def serve(start_server: Start, glm_home: Path) -> Callable[..., Any]:
    """Start a server on the test's own database; called again, it is a restart."""

    def serve(engine: Any = None) -> Any:
        return start_server(engine, database=LazyDatabase(StorageSettings(), glm_home))

    return serve


@pytest.fixture
def server(serve: Any) -> Any:
    return serve()


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def create(client: openai.OpenAI, text: Any = "Hi", **options: Any) -> Any:
    return client.responses.create(model="scripted", input=text, **options)


def ended(client: openai.OpenAI, response: Any) -> Any:
    """Poll as clients of background responses do."""
    deadline = time.monotonic() + 20
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        response = client.responses.retrieve(response.id)
    return response


def refused(call: Callable[[], Any]) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        call()
    return caught.value


# --- one response ---


def test_a_text_is_answered(client: openai.OpenAI, server: Any) -> None:
    response = create(client, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5, max_output_tokens=50)
    assert (response.status, response.output_text, response.object) == ("completed", "Hello", "response")
    assert (response.instructions, response.metadata, response.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (35, 5, 40)
    [item] = response.output
    assert (item.type, item.role, item.status, item.id[:4]) == ("message", "assistant", "completed", "msg_")
    assert server.engine.prompts == ["system:Be brief.|user:Hi|assistant:"]
    assert (server.engine.params[0].temperature, server.engine.params[0].max_tokens) == (0.5, 50)


def test_items_are_a_conversation(client: openai.OpenAI, server: Any) -> None:
    create(
        client,
        [
            {"role": "developer", "content": "Rule"},
            {"role": "user", "content": [{"type": "input_text", "text": "On"}, {"type": "input_text", "text": "e"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
            {"role": "user", "content": "Three"},
        ],
    )
    assert server.engine.prompts == ["system:Rule|user:One|assistant:Two|user:Three|assistant:"]


def test_a_reply_that_was_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    response = create(client, max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "He")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"


def test_logprobs_are_included_on_request(client: openai.OpenAI) -> None:
    response = create(client, include=["message.output_text.logprobs"], top_logprobs=1)
    scores = response.output[0].content[0].logprobs
    assert [score.token for score in scores] == list("Hello")
    assert scores[0].top_logprobs[0].token == "A"


# --- streams ---


def test_a_stream_tells_of_every_change_in_order(client: openai.OpenAI) -> None:
    events = list(create(client, stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 5,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
    assert events[0].response.status == "in_progress"
    assert events[0].response.output == []
    assert (events[-1].response.status, events[-1].response.output_text) == ("completed", "Hello")


def test_the_clients_own_accumulation_is_what_is_stored(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="Hi") as stream:
        final = stream.get_final_response()
    stored = client.responses.retrieve(final.id)
    assert final.model_dump(exclude={"output": {"__all__": {"content": {"__all__": {"parsed"}}}}}) == (
        stored.model_dump()
    )


def test_what_a_stream_completed_can_be_retrieved_by_then(client: openai.OpenAI) -> None:
    for event in create(client, stream=True):
        if event.type == "response.completed":
            assert client.responses.retrieve(event.response.id).status == "completed"


def test_a_failure_in_the_middle_is_an_event_and_is_stored(serve: Any, scripted_engine: Any) -> None:
    server = serve(scripted_engine(fail_after=2))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    events = list(create(client, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert "secret" not in events[-1].response.error.message
    assert client.responses.retrieve(events[-1].response.id).status == "failed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status"),
    [(OverloadedError("full", retry_after_seconds=2), 503), (ContextLengthError("long", parameter="prompt"), 400)],
)
def test_the_engines_refusal_has_its_own_status_and_nothing_is_stored(
    serve: Any, scripted_engine: Any, refusal: Exception, status: int, stream: bool
) -> None:
    server = serve(scripted_engine(refuse=refusal))
    response = httpx2.post(f"{server.url}/v1/responses", json={"input": "Hi", "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["param"] == ("input" if status == 400 else None)


def test_a_client_that_goes_away_ends_the_response(serve: Any, scripted_engine: Any) -> None:
    server = serve(scripted_engine(hold_after=2))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with create(client, stream=True) as stream:
        response_id = next(iter(stream)).response.id
        assert server.engine.holding.wait(20)
    assert server.engine.closed.wait(20)
    response = ended(client, client.responses.retrieve(response_id))
    assert (response.status, response.output_text) == ("cancelled", "He")


# --- chains ---


def test_a_chain_goes_on_after_a_restart(serve: Any, server: Any, client: openai.OpenAI) -> None:
    first = create(client, "One", instructions="Old rule")
    second = create(client, "Two", previous_response_id=first.id)
    restarted = serve()
    create(client, "Three", previous_response_id=second.id, instructions="New rule")
    assert restarted.engine.prompts == [
        "system:New rule|user:One|assistant:Hello|user:Two|assistant:Hello|user:Three|assistant:"
    ]


def test_the_input_items_are_everything_that_went_in(client: openai.OpenAI) -> None:
    first = create(client, "One")
    second = create(client, "Two", previous_response_id=first.id)
    texts = [item.content[0].text for item in client.responses.input_items.list(second.id, order="asc", limit=2)]
    assert texts == ["One", "Hello", "Two"]
    newest = client.responses.input_items.list(second.id, limit=1)
    assert (newest.data[0].content[0].text, newest.has_more) == ("Two", True)


def test_a_chain_that_has_grown_too_long_is_cut_at_its_beginning_if_wanted(client: openai.OpenAI, server: Any) -> None:
    first = create(client, "old " * 100)
    second = create(client, "newer " * 60, previous_response_id=first.id)
    third: Any = {"text": "newest " * 50, "previous_response_id": second.id, "max_output_tokens": 20}
    assert refused(lambda: create(client, **third)).code == "context_length_exceeded"
    response = create(client, **third, truncation="auto")
    assert (response.status, response.truncation) == ("completed", "auto")
    assert "old" not in server.engine.prompts[-1]
    assert response.usage.context["policy"] == "truncate"


def test_a_chain_with_a_gap_is_refused(client: openai.OpenAI) -> None:
    first = create(client, "One")
    second = create(client, "Two", previous_response_id=first.id)
    client.responses.delete(first.id)
    assert refused(lambda: create(client, previous_response_id=second.id)).param == "previous_response_id"
    assert refused(lambda: create(client, previous_response_id="resp_no")).param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    response = create(client, store=False)
    assert (response.store if "store" in (response.model_extra or {}) else False) is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_deleted_response_is_gone(client: openai.OpenAI) -> None:
    response = create(client)
    client.responses.delete(response.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(response.id)


# --- in the background ---


def test_a_background_response_is_polled(client: openai.OpenAI) -> None:
    response = create(client, background=True)
    assert (response.status, response.background) == ("queued", True)
    response = ended(client, response)
    assert (response.status, response.output_text) == ("completed", "Hello")


def test_a_background_response_outlives_its_clients_connection(serve: Any, scripted_engine: Any) -> None:
    server = serve(scripted_engine(hold_after=2))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with create(client, background=True, stream=True) as stream:
        response_id = next(iter(stream)).response.id
        assert server.engine.holding.wait(20)
    assert client.responses.retrieve(response_id).status == "in_progress"
    assert not server.engine.closed.is_set()
    cancelled = client.responses.cancel(response_id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "He")
    assert server.engine.closed.wait(20)
    assert client.responses.cancel(response_id).status == "cancelled"


def test_a_stream_from_the_background_is_taken_up_where_it_was_left(client: openai.OpenAI) -> None:
    seen = []
    with create(client, background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 6:
                break
    rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=5))
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert rest[-1].response.output_text == "Hello"
    again = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=5))
    assert [event.model_dump() for event in again] == [event.model_dump() for event in rest]


def test_a_full_queue_makes_background_work_wait(serve: Any, scripted_engine: Any) -> None:
    engine = scripted_engine(refuse=OverloadedError("full", retry_after_seconds=0.01))
    server = serve(engine)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    response = create(client, background=True)
    assert client.responses.retrieve(response.id).status == "queued"
    engine.refuse = None
    assert ended(client, response).status == "completed"


def test_what_the_engine_refuses_in_the_background_has_failed(serve: Any, scripted_engine: Any) -> None:
    server = serve(scripted_engine(refuse=ContextLengthError("too long", parameter="prompt")))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    response = ended(client, create(client, background=True))
    assert (response.status, response.error.code, response.error.message) == ("failed", "invalid_prompt", "too long")


def test_only_what_runs_in_the_background_is_cancelled_or_followed(client: openai.OpenAI) -> None:
    foreground, background = create(client), create(client, background=True)
    assert "closes" not in str(refused(lambda: client.responses.cancel(foreground.id)))
    for response in (foreground, background):
        assert refused(lambda: list(client.responses.retrieve(response.id, stream=True))).param == "stream"  # noqa: B023
    ended(client, background)


@pytest.mark.requirement("E9")
def test_truncation_leaves_out_the_oldest_turns_only_where_it_is_wanted(client: openai.OpenAI, server: Any) -> None:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": str(i % 10) * 100} for i in range(13)]
    assert refused(lambda: create(client, turns, truncation="disabled")).code == "context_length_exceeded"
    response = create(client, turns, truncation="auto", max_output_tokens=50)
    assert (response.status, response.truncation) == ("completed", "auto")
    assert response.usage.context["dropped_messages"] == [0, 1, 2, 3, 4, 5]
    assert server.engine.prompts[-1].startswith("user:" + "6" * 100)


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": "a", "mood": "b"}]}, "input[0].mood"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": ["f"]}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": ["f"]}]}}, "tool_choice"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"truncation": "soon"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
        ({"background": True, "store": False}, "background"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"stream_options": {}}, "stream_options"),
        ({"temperature": 2.1}, "temperature"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"input": "x" * 2000}, "input"),
        ({"max_output_tokens": 1000}, "input"),
    ],
)
def test_what_is_not_done_is_refused_by_name(server: Any, options: dict[str, Any], parameter: str) -> None:
    response = httpx2.post(f"{server.url}/v1/responses", json={"input": "Hi", **options})
    assert (response.status_code, response.json()["error"].get("param")) == (400, parameter), response.text
    assert server.engine.prompts == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("starting_after=1", "starting_after"),
        ("stream=true&starting_after=x", "starting_after"),
        ("colour=1", "colour"),
    ],
)
def test_a_wrong_query_of_a_retrieval_is_named(server: Any, client: openai.OpenAI, query: str, parameter: str) -> None:
    response = httpx2.get(f"{server.url}/v1/responses/{create(client).id}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, parameter)


def test_neutral_values_pass(server: Any) -> None:
    body = {
        "input": "Hi",
        "truncation": "disabled",
        "service_tier": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": "none", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "tool_choice": "auto",
        "tools": [],
        "max_tool_calls": 3,
        "user": "me",
        "previous_response_id": None,
    }
    response = httpx2.post(f"{server.url}/v1/responses", json=body)
    assert response.status_code == 200, response.text
    assert json.loads(response.content)["reasoning"] == {"effort": "none", "summary": "auto"}
