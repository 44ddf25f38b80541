"""Tools, reasoning and formats through the real OpenAI client, the real engine and tiny random models of GLM.

A random model would rather write noise: what comes out in the right form does so because the grammar holds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from glm_crush.config import ApiSettings
from glm_crush.serving.app import create_app
from tests.chat.glm_tokens import glm_tokenizer_json
from tests.engine.grammar_models import UNFOLDS

pytestmark = [pytest.mark.requirement("E2"), pytest.mark.requirement("S1")]

HI: list[Any] = [{"role": "user", "content": "Hi"}]
FLAG = {
    "type": "function",
    "function": {
        "name": "set_flag",
        "description": "Sets a flag.",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
            "required": ["on", "colour"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ANSWER = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}
SCHEMA_FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
Api = openai.OpenAI


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.fixture
def api(glm_models: Any, loopback_server: Any) -> Iterator[Api]:
    url, current = loopback_server
    current.app = create_app(glm_models, ApiSettings())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(api: Api, model: str, **options: Any) -> Any:
    options = {"messages": HI, "max_completion_tokens": 150, "seed": 3, **options}
    return api.chat.completions.create(model=model, **options)


def joined(chunks: Any) -> Any:
    """What a client has at the end of a stream: content, reasoning, calls by index, reason, usage."""
    content, reasoning, reason, usage = "", "", None, None
    calls: dict[int, list[Any]] = {}
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            content += choice.delta.content or ""
            extra = choice.delta.model_extra or {}
            assert extra.get("reasoning") == extra.get("reasoning_content")
            reasoning += extra.get("reasoning") or ""
            for call in choice.delta.tool_calls or []:
                if call.id:
                    assert call.index not in calls
                    calls[call.index] = [call.function.name, ""]
                calls[call.index][1] += call.function.arguments or ""
    return content, reasoning, [tuple(call) for call in calls.values()], reason, usage


MODELS = pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])


@MODELS
@pytest.mark.parametrize("format_", [SCHEMA_FORMAT, {"type": "json_object"}])
def test_a_format_is_kept_streamed_or_not(api: Api, model: str, format_: Any) -> None:
    options: dict[str, Any] = {"response_format": format_, "extra_body": NO_THINKING if model != "plain" else {}}
    reply = chat(api, model, **options).choices[0]
    streamed, *_ = joined(chat(api, model, stream=True, **options))
    assert streamed == reply.message.content
    if reply.finish_reason == "stop":
        value = json.loads(reply.message.content)
        assert isinstance(value, dict)
        assert format_ is not SCHEMA_FORMAT or (value["colour"] in ("red", "green") and type(value["sure"]) is bool)
    else:
        assert format_ is not SCHEMA_FORMAT


@MODELS
def test_a_required_call_is_made_and_its_stream_adds_up_to_the_whole_reply(api: Api, model: str) -> None:
    options: dict[str, Any] = {
        "tools": [FLAG, NOW],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "extra_body": NO_THINKING if model != "plain" else {},
    }
    reply = chat(api, model, **options).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert reply.message.content is None
    [call] = reply.message.tool_calls
    assert call.id.startswith("call_")
    assert call.function.name in ("set_flag", "now")
    _, _, calls, reason, _ = joined(chat(api, model, stream=True, **options))
    assert calls == [(call.function.name, call.function.arguments)]
    assert reason == "tool_calls"


@MODELS
def test_a_named_tool_is_called_with_arguments_of_its_schema(api: Api, model: str) -> None:
    choice: Any = {"type": "function", "function": {"name": "set_flag"}}
    body = NO_THINKING if model != "plain" else {}
    reply = chat(api, model, tools=[FLAG, NOW], tool_choice=choice, parallel_tool_calls=False, extra_body=body).choices[
        0
    ]
    [call] = reply.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "set_flag"
    assert set(arguments) == {"on", "colour"}
    assert type(arguments["on"]) is bool
    assert arguments["colour"] in ("red", "green")


def test_the_calls_and_results_of_a_conversation_can_be_sent_back(api: Api) -> None:
    for model in ("glm45", "glm47", "plain"):
        reply = chat(api, model, tools=[NOW], tool_choice="required", parallel_tool_calls=False).choices[0].message
        calls = [call.model_dump() for call in reply.tool_calls or []]
        if not calls:  # a random model may think to the end
            continue
        messages = [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": calls[0]["id"], "content": "noon"},
        ]
        again = chat(api, model, messages=messages, tools=[NOW], max_completion_tokens=3)
        assert again.usage.completion_tokens > 0


def test_each_of_several_replies_has_its_own_calls_and_every_token_its_logprob(api: Api) -> None:
    options: dict[str, Any] = {
        "tools": [FLAG],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "n": 2,
        "logprobs": True,
        "extra_body": NO_THINKING,
    }
    whole = chat(api, "glm47", **options)
    calls = [choice.message.tool_calls[0] for choice in whole.choices]
    assert calls[0].id != calls[1].id
    assert sum(len(choice.logprobs.content) for choice in whole.choices) == whole.usage.completion_tokens
    streamed = {0: "", 1: ""}
    num_logprobs = 0
    for chunk in chat(api, "glm47", stream=True, **options):
        [choice] = chunk.choices
        num_logprobs += len(choice.logprobs.content) if choice.logprobs else 0
        for call in choice.delta.tool_calls or []:
            streamed[choice.index] += call.function.arguments
    assert list(streamed.values()) == [call.function.arguments for call in calls]
    assert num_logprobs == whole.usage.completion_tokens


def test_with_thinking_on_the_reasoning_is_its_own_field_and_counted(api: Api) -> None:
    whole = chat(api, "glm47", max_completion_tokens=20, extra_body={"ignore_eos": True})
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "length"
    assert message.content == ""
    assert message.reasoning == message.reasoning_content != ""
    assert whole.usage.completion_tokens_details.reasoning_tokens == 20
    stream = chat(
        api,
        "glm47",
        max_completion_tokens=20,
        extra_body={"ignore_eos": True},
        stream=True,
        stream_options={"include_usage": True},
    )
    content, reasoning, _, _, usage = joined(stream)
    assert (content, reasoning) == ("", message.reasoning)
    assert usage.completion_tokens_details.reasoning_tokens == 20


def test_a_form_after_reasoning_begins_where_the_reasoning_ends(api: Api) -> None:
    # The end of the reasoning is made likely; after it the bias can do nothing.
    bias = {"logit_bias": {"276": 9}}
    reply = chat(api, "glm47", response_format=SCHEMA_FORMAT, max_completion_tokens=300, extra_body=bias).choices[0]
    assert reply.finish_reason == "stop"
    assert json.loads(reply.message.content)["colour"] in ("red", "green")


@MODELS
def test_a_stream_tells_how_far_the_prompt_has_been_read_if_asked(api: Api, model: str) -> None:
    asked: Any = {"messages": [{"role": "user", "content": f"{model} " * 400}], "max_completion_tokens": 3}
    chunks = list(chat(api, model, stream=True, extra_body={"return_progress": True}, **asked))
    told = [chunk.model_extra["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk.model_extra]
    assert len(told) > 1
    assert told[-1]["processed"] == told[-1]["total"] > told[0]["processed"] > told[0]["cache"] >= 0
    assert [progress["time_ms"] for progress in told] == sorted(progress["time_ms"] for progress in told)
    assert not any("prompt_progress" in chunk.model_extra for chunk in chat(api, model, stream=True, **asked))
    with pytest.raises(openai.BadRequestError, match="stream is not true") as caught:
        chat(api, model, extra_body={"return_progress": True}, **asked)
    assert caught.value.param == "return_progress"


@MODELS
def test_only_allowed_tools_are_called(api: Api, model: str) -> None:
    for name, tools in (("now", [FLAG, NOW]), ("set_flag", [NOW, FLAG])):
        options = {"tools": tools, "tool_choice": allowed("required", name), "extra_body": NO_THINKING}
        reply = chat(api, model, parallel_tool_calls=False, **options).choices[0].message
        assert [call.function.name for call in reply.tool_calls] == [name]


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("minimal", False), ("low", True), ("high", True)])
def test_effort_turns_thinking_on_or_off(api: Api, effort: Any, thinks: bool) -> None:
    def prompt(**options: Any) -> Any:
        body = {"model": "glm47", "messages": HI, **options}
        rendered: Any = api.post("/chat/completions/render", body=body, cast_to=object)
        return rendered["prompt"]

    assert prompt(reasoning_effort=effort) == prompt(chat_template_kwargs={"enable_thinking": thinks})
    if thinks:
        with pytest.raises(openai.BadRequestError, match="plain does not reason") as caught:
            chat(api, "plain", reasoning_effort=effort)
        assert caught.value.param == "reasoning_effort"
    else:
        assert chat(api, "plain", reasoning_effort=effort).choices[0].message.content != ""


def test_without_tools_or_with_tool_choice_none_nothing_is_a_call(api: Api) -> None:
    for options in ({}, {"tools": [NOW], "tool_choice": "none"}):
        message = chat(api, "glm47", extra_body=NO_THINKING, max_completion_tokens=30, **options).choices[0].message
        assert message.tool_calls is None
        assert "<tool_call>" not in (message.content or "") or not options


def test_a_call_that_a_model_makes_by_itself_is_held_to_the_schema(api: Api) -> None:
    tool_call = str(glm_tokenizer_json()["model"]["vocab"]["<tool_call>"])
    body = {**NO_THINKING, "logit_bias": {tool_call: 50}}
    reply = chat(api, "glm47", tools=[FLAG], parallel_tool_calls=False, extra_body=body).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert set(json.loads(reply.message.tool_calls[0].function.arguments)) == {"on", "colour"}


@pytest.mark.parametrize(
    ("form", "accepts"),
    [
        ({"regex": "[ab]{3}"}, lambda text: len(text) == 3 and set(text) <= {"a", "b"}),
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"grammar": 'start: "x" "y"'}, lambda text: text == "xy"),
        ({"json": {"const": [1]}}, lambda text: text == "[1]"),
    ],
)
def test_structured_outputs_hold_chats_and_completions(api: Api, form: Any, accepts: Callable[[str], bool]) -> None:
    body = {"structured_outputs": form}
    assert accepts(chat(api, "plain", extra_body=body).choices[0].message.content)
    text = api.completions.create(model="plain", prompt="Say", max_tokens=20, extra_body=body).choices[0].text
    assert accepts(text)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0]", "give"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": 5}}}}]},
            "tools[0].function.parameters.properties.a",
            "give a JSON schema",
        ),
        ({"tools": [NOW], "tool_choice": "perhaps"}, "tool_choice", "'perhaps'"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [NOW], "tool_choice": allowed("auto", "x")}, "tool_choice.allowed_tools", "the tools are now"),
        ({"tools": [NOW], "tool_choice": allowed("never", "now")}, "tool_choice.allowed_tools", "'never'"),
        ({"tools": [NOW], "tool_choice": allowed("auto")}, "tool_choice.allowed_tools", "[]"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "'much'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "give the schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}, "strict": True}}},
            "response_format",
            "Invalid type: x",
        ),
        ({"structured_outputs": {"regex": "(", "choice": ["a"]}}, "structured_outputs", "regex and choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs", "unclosed group"),
        ({"structured_outputs": {"grammar": UNFOLDS.grammar}}, "structured_outputs", "compiling it took more"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "give a list"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}}
                ]
            },
            "tools",
            "Invalid type: x",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_400_that_says_why(api: Api, body: Any, param: str, words: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(api, "glm47", extra_body=body, stream=stream)
    assert caught.value.param == param
    assert words in caught.value.message
