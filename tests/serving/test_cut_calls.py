"""A call that the limit of tokens cuts, in every protocol: as much of the call as came, streamed or not, and no text.

Tiny random models behind the real engine, called by the protocols' own clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.serving.app import create_app
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.test_tools_and_formats import FLAG, HI, NO_THINKING, joined

pytestmark = pytest.mark.requirement("E2", "S1", "S2")

MODELS = pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])
NAME, PARAMETERS = FLAG["function"]["name"], FLAG["function"]["parameters"]  # type: ignore[index]
STEP = 6  # tokens between two limits


@pytest.fixture
def url(glm_models: Any, loopback_server: Any, glm_home: Path) -> Iterator[str]:
    address, current = loopback_server
    database = LazyDatabase(StorageSettings(), glm_home)
    current.app = create_app(glm_models, ApiSettings(), database=database)
    yield address
    asyncio.run(database.close())


@pytest.fixture
def api(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@MODELS
def test_chat_completions(api: openai.OpenAI, model: str) -> None:
    options: dict[str, Any] = {"model": model, "messages": HI, "seed": 3, "tools": [FLAG], "tool_choice": "required"}
    options |= {"parallel_tool_calls": False, "extra_body": NO_THINKING if model != "plain" else {}}
    whole = api.chat.completions.create(**options, max_completion_tokens=200)
    [call] = whole.choices[0].message.tool_calls
    seen = set()
    for limit in range(1, whole.usage.completion_tokens, STEP):
        cut = api.chat.completions.create(**options, max_completion_tokens=limit).choices[0]
        stream = api.chat.completions.create(**options, max_completion_tokens=limit, stream=True)
        calls = [(part.function.name, part.function.arguments) for part in cut.message.tool_calls or ()]
        assert joined(stream)[:4] == ("", "", calls, "length")
        assert (cut.message.content or "", cut.finish_reason) == ("", "length")
        for name, arguments in calls:
            assert name == NAME
            assert call.function.arguments.startswith(arguments)
            seen.add(arguments)
    assert len(seen) > 1


@MODELS
def test_responses(api: openai.OpenAI, model: str) -> None:
    tool: Any = {"type": "function", **FLAG["function"]}  # type: ignore[dict-item]
    options: dict[str, Any] = {"model": model, "input": "Hi", "tools": [tool], "tool_choice": "required"}
    options |= {"parallel_tool_calls": False, "reasoning": {"effort": "none"}, "extra_body": {"seed": 3}}
    whole = api.responses.create(**options, max_output_tokens=200)
    [call] = whole.output
    seen = set()
    for limit in range(1, whole.usage.output_tokens, STEP):
        cut = api.responses.create(**options, max_output_tokens=limit)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        streamed = list(api.responses.create(**options, max_output_tokens=limit, stream=True))[-1].response
        shapes = [
            [(item.type, item.name, item.arguments, item.status) for item in reply.output] for reply in (cut, streamed)
        ]
        assert shapes[0] == shapes[1]
        for kind, name, arguments, status in shapes[0]:
            assert (kind, name, status) == ("function_call", NAME, "incomplete")
            assert call.arguments.startswith(arguments)
            seen.add(arguments)
    assert len(seen) > 1


@MODELS
def test_anthropic(url: str, model: str) -> None:
    tool: Any = {"name": NAME, "input_schema": PARAMETERS}
    options: dict[str, Any] = {"model": model, "messages": HI, "tools": [tool], "extra_body": {"top_k": 1}}
    options["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    seen = set()
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        whole = client.messages.create(**options, max_tokens=200)
        for limit in range(1, whole.usage.output_tokens, STEP):
            cut = client.messages.create(**options, max_tokens=limit)
            with client.messages.stream(**options, max_tokens=limit) as stream:
                final = stream.get_final_message()
            blocks = [[(block.type, block.name) for block in reply.content] for reply in (cut, final)]
            assert blocks[0] == blocks[1]
            assert set(blocks[0]) <= {("tool_use", NAME)}
            assert (cut.stop_reason, final.stop_reason) == ("max_tokens", "max_tokens")
            seen |= {len(block.input) for block in cut.content}
    assert len(seen) > 1


def test_ollama(url: str) -> None:
    # Its requests force no call: what a random model writes is one where nothing else may come.
    options: dict[str, Any] = {"model": "glm47", "messages": HI, "tools": [FLAG], "think": False}
    options["format"] = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    seen = set()
    with ollama.Client(url) as client:
        seed, whole = next(
            (seed, whole)
            for seed in range(30)
            if (whole := client.chat(**options, options={"seed": seed, "num_predict": 150})).message.tool_calls
            and whole.done_reason == "stop"
        )
        for limit in range(1, whole.eval_count, STEP):
            wish = {"seed": seed, "num_predict": limit}
            cut = client.chat(**options, options=wish)
            parts = list(client.chat(**options, options=wish, stream=True))
            functions = [call.function for call in cut.message.tool_calls or ()]
            assert [call.function for part in parts for call in part.message.tool_calls or ()] == functions
            assert "".join(part.message.content or "" for part in parts) == cut.message.content == ""
            assert (cut.done_reason, parts[-1].done_reason) == ("length", "length")
            seen |= {(function.name, len(function.arguments)) for function in functions}
    assert {(NAME, 0), (NAME, 1)} <= seen
