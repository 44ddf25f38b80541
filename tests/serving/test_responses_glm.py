"""Calls, reasoning and formats in /v1/responses: the real OpenAI client, the real engine, tiny random models of GLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.openai.responses.items import chat_messages, checked_items
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.test_tools_and_formats import ANSWER, FLAG

pytestmark = [pytest.mark.requirement("S1"), pytest.mark.requirement("E2")]

TOOL = {"type": "function", **FLAG["function"]}
SCHEMA: Any = {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER, "strict": True}}


@pytest.fixture
def api(glm_models: Any, loopback_server: Any, glm_home: Path) -> Iterator[openai.OpenAI]:
    url, current = loopback_server
    database = LazyDatabase(StorageSettings(), glm_home)
    current.app = create_app(glm_models, ApiSettings(), database=database)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client
    asyncio.run(database.close())


def create(api: openai.OpenAI, **options: Any) -> Any:
    options = {"model": "glm45", "input": "Hi", "max_output_tokens": 150, "extra_body": {"seed": 3}, **options}
    return api.responses.create(**options)


@pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])
def test_a_required_call_is_an_item_with_valid_arguments(api: openai.OpenAI, model: str) -> None:
    response = create(api, model=model, tools=[TOOL], tool_choice="required", reasoning={"effort": "none"})
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls, response.output
    assert {call.name for call in calls} == {"set_flag"}
    assert set(json.loads(calls[0].arguments)) == {"on", "colour"}


def test_the_streamed_call_adds_up_to_the_stored_one(api: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "name": "set_flag"}
    events = list(
        create(
            api, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, reasoning={"effort": "none"}, stream=True
        )
    )
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    [call] = events[-1].response.output
    assert arguments == done.arguments == call.arguments
    assert api.responses.retrieve(events[-1].response.id).output == [call]


def test_a_call_is_answered_in_the_next_response(api: openai.OpenAI) -> None:
    first = create(api, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, reasoning={"effort": "none"})
    [call] = first.output
    answer: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    second = create(api, input=answer, previous_response_id=first.id, tools=[TOOL], max_output_tokens=5)
    assert second.previous_response_id == first.id
    kinds = [item.type for item in api.responses.input_items.list(second.id, order="asc")]
    assert kinds == ["message", "function_call", "function_call_output"]


@pytest.mark.parametrize("effort", ["none", "high"])
def test_a_format_is_kept_with_thinking_and_without(api: openai.OpenAI, effort: Any) -> None:
    wish: Any = {"text": SCHEMA, "reasoning": {"effort": effort}, "max_output_tokens": 400}
    events = list(create(api, model="glm47", stream=True, **wish))
    response = events[-1].response
    if response.status == "completed":
        assert set(json.loads(response.output_text)) == {"colour", "sure"}
    else:  # a random model may think until its limit
        assert effort == "high"
    assert ("reasoning" in {item.type for item in response.output}) == (effort == "high")
    assert (response.usage.output_tokens_details.reasoning_tokens > 0) == (effort == "high")


def test_reasoning_is_an_item_of_its_own_or_its_summary(api: openai.OpenAI) -> None:
    wish: Any = {"model": "glm47", "max_output_tokens": 20, "stream": True}
    plain = list(create(api, reasoning={"effort": "high"}, **wish))
    summed = list(create(api, reasoning={"effort": "high", "summary": "auto"}, **wish))
    text = "".join(event.delta for event in plain if event.type == "response.reasoning_text.delta")
    summary = "".join(event.delta for event in summed if event.type == "response.reasoning_summary_text.delta")
    item, summed_item = plain[-1].response.output[0], summed[-1].response.output[0]
    assert text == item.content[0].text == summary == summed_item.summary[0].text
    assert (item.summary, summed_item.content) == ([], [])


def test_allowed_tools_are_those_that_may_be_called(api: openai.OpenAI) -> None:
    now: Any = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    response = create(
        api, tools=[TOOL, now], tool_choice=choice, parallel_tool_calls=False, reasoning={"effort": "none"}
    )
    assert [item.name for item in response.output if item.type == "function_call"] == ["now"]


def test_the_clients_parse_reads_the_format(api: openai.OpenAI) -> None:
    class Answer(BaseModel):
        colour: Literal["red", "green"]
        sure: bool

    parsed = api.responses.parse(
        model="glm45", input="Hi", text_format=Answer, reasoning={"effort": "none"}, max_output_tokens=200
    )
    assert parsed.output_parsed is not None
    assert parsed.output_parsed.colour in ("red", "green")


def test_one_turn_of_reasoning_text_and_calls_is_one_message() -> None:
    items = checked_items(
        [
            {"role": "user", "content": "a"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "think"}]},
            {"role": "assistant", "content": "b"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "more"}]},
            {"role": "assistant", "content": "d"},
            {"role": "assistant", "content": "e"},
        ]
    )
    function = {"name": "f", "arguments": "{}"}
    assert chat_messages("rule", items) == [
        {"role": "system", "content": "rule"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "think",
            "tool_calls": [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "d", "reasoning_content": "more"},
        {"role": "assistant", "content": "e"},
    ]
