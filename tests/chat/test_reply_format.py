"""What a wish for a reply means for prompt, grammar and parser, by the kind of model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glm_crush.chat.builtin_templates import builtin_template
from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat, ReplyWish
from glm_crush.chat.template import ChatTemplate
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.tokenizer.tokenizer import Tokenizer
from glm_crush.types import SamplingParams, StructuredOutput
from tests.chat.parsed_reply import NOW, TOKENIZER, WEATHER
from tests.models.tiny_tokenizer import CHAT_TEMPLATE, tokenizer_json

pytestmark = pytest.mark.requirement("E2")

HI: list[Any] = [{"role": "user", "content": "Hi"}]
JSON = StructuredOutput.json_object()
PLAIN = PromptCodec(Tokenizer.from_bytes(json.dumps(tokenizer_json()).encode()), ChatTemplate(CHAT_TEMPLATE))


def glm(name: str) -> PromptCodec:
    return PromptCodec(TOKENIZER, ChatTemplate(builtin_template(name)))


def wish(choice: str = "auto", **options: Any) -> ReplyWish:
    tools = [WEATHER, NOW]
    return ReplyWish(tools=tools, schemas=tool_schemas(tools), choice=choice, **options)


def begins(codec: PromptCodec, wanted: ReplyWish, **variables: Any) -> str | None:
    structured = ReplyFormat(codec).structured(codec.render(HI, **variables), wanted)
    return None if structured is None else structured.begins


@pytest.mark.parametrize(
    ("codec", "variables", "expected"),
    [
        (glm("glm47"), {}, "after_reasoning"),
        (glm("glm47"), {"enable_thinking": False}, "now"),
        (glm("glm45"), {}, "open"),
        (glm("glm45"), {"enable_thinking": False}, "now"),
        (PLAIN, {}, "now"),
    ],
)
def test_a_form_begins_after_the_reasoning_that_the_prompt_asks_for(
    codec: PromptCodec, variables: dict[str, Any], expected: str
) -> None:
    assert begins(codec, ReplyWish(answer=JSON), **variables) == expected
    assert begins(codec, wish("required"), **variables) == expected
    held = ReplyFormat(codec).held(codec.render(HI, **variables), SamplingParams(structured=JSON))
    assert held.structured is not None
    assert held.structured.begins == expected


def test_free_replies_stay_free_and_calls_in_them_are_held() -> None:
    assert begins(glm("glm47"), ReplyWish()) is None
    assert begins(glm("glm47"), wish("none")) is None
    assert begins(glm("glm47"), wish()) == "at_call"
    assert begins(PLAIN, wish()) is None


def test_a_named_choice_leaves_one_tool_and_none_leaves_no_tool() -> None:
    assert list(wish("now").callable) == ["now"]
    assert list(wish("required").callable) == ["get_weather", "now"]
    assert list(wish("none").callable) == []


def test_a_template_that_takes_tools_renders_them() -> None:
    messages, tools = ReplyFormat(glm("glm47")).messages_for(HI, wish())
    assert messages == HI
    assert tools == [WEATHER, NOW]
    assert ReplyFormat(glm("glm47")).messages_for(HI, wish("none")) == (HI, None)


def test_a_template_that_takes_none_gets_them_in_the_system_message_and_calls_as_text() -> None:
    history: list[Any] = [
        {"role": "system", "content": "Be brief."},
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]},
    ]
    messages, tools = ReplyFormat(PLAIN).messages_for(history, wish())
    assert tools is None
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert str(messages[0]["content"]).startswith("Be brief.\n\nYou can call these functions:\n{")
    assert messages[2]["content"] == '{"name": "now", "arguments": {}}'
    assert ReplyFormat(PLAIN).messages_for(history, wish("none"))[0][0]["content"] == "Be brief."


def test_a_call_is_told_as_the_model_wrote_it_or_as_json() -> None:
    def told(arguments: Any) -> object:
        call: Any = {"function": {"name": "now", "arguments": arguments}}
        messages, _ = ReplyFormat(PLAIN).messages_for([{"role": "assistant", "tool_calls": [call]}], wish("none"))
        return messages[0]["content"]

    assert told('{ "a":1}') == '{"name": "now", "arguments": { "a":1}}'
    assert told({"city": "Köln", "sure": True}) == '{"name": "now", "arguments": {"city": "Köln", "sure": true}}'
    assert told('{"city": "K') == '{"name": "now", "arguments": {"city": "K}'
    assert told("") == told(None) == '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize("call", [{"id": "a"}, {"function": {"name": 5}}, {"function": "f"}, "f"])
def test_a_malformed_call_is_refused_also_where_calls_are_told_as_text(call: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"messages\[0\].tool_calls\[0\]"):
        ReplyFormat(PLAIN).messages_for([{"role": "assistant", "tool_calls": [call]}], wish())


def test_tools_that_must_not_be_called_are_made_unlikely() -> None:
    tool_call = TOKENIZER.added_ids["<tool_call>"]
    assert ReplyFormat(glm("glm47")).call_bias(wish("none")) == {tool_call: -100.0}
    assert ReplyFormat(glm("glm47")).call_bias(wish("auto")) == {}
    assert ReplyFormat(PLAIN).call_bias(wish("none")) == {}


def test_only_a_model_that_reasons_or_may_call_needs_a_parser() -> None:
    assert ReplyFormat(glm("glm47")).needs_parser(ReplyWish())
    assert ReplyFormat(PLAIN).needs_parser(wish())
    assert not ReplyFormat(PLAIN).needs_parser(ReplyWish(answer=JSON))
