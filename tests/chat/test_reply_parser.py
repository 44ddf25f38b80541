"""Replies of GLM as clients see them: each known bug of other servers as a test, and the same for every split."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.chat.builtin_templates import builtin_template
from glm_crush.chat.template import ChatTemplate
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import InvalidParameterError
from tests.chat.glm_tokens import TAGS
from tests.chat.parsed_reply import (
    MARKERS,
    NOW,
    STRING,
    TOKENIZER,
    WEATHER,
    Parsed,
    deltas,
    parse,
    parser,
    parts_of,
    put_together,
    tool,
)

pytestmark = [pytest.mark.requirement("E2"), pytest.mark.requirement("S1")]

PARIS = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
PARIS_47 = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>"


def arg(key: str, value: str) -> str:
    return f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>"


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>{name}{''.join(arg(k, v) for k, v in arguments.items())}</tool_call>"


# --- the bug list ---


def test_name_and_arguments_come_while_the_call_is_written() -> None:
    reply = parser([WEATHER])
    seen = [part.text for ids, text in deltas(PARIS_47, range(200)) for part in reply.push(ids, text)]
    assert seen[0] == "get_weather"
    assert seen[1] == '{"city": "'
    assert seen[2:] == ["P", "a", "r", "i", "s", '"', "}"]


@pytest.mark.parametrize("text", ["<tool_call>now</tool_call>", "<tool_call>now\n</tool_call>"])
@pytest.mark.parametrize("cuts", [(), range(100)])
def test_a_call_without_arguments_is_a_call_with_an_empty_object(text: str, cuts: Any) -> None:
    assert parse(text, [NOW], cuts=cuts) == Parsed(calls=[["now", "{}"]])


def test_a_tool_name_is_never_streamed_as_a_prefix() -> None:
    tools = [tool("get"), WEATHER]
    names = [p.text for p in parts_of(PARIS, tools, cuts=range(200)) if p.kind == "tool_name"]
    assert names == ["get_weather"]


def test_a_tool_call_inside_the_reasoning_ends_it_and_is_a_call() -> None:
    assert parse(f"I look it up.{PARIS}", [WEATHER], "reasoning") == Parsed(
        reasoning="I look it up.", calls=[["get_weather", '{"city": "Paris"}']]
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"type": ["string", "null"]},
        {"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/Name"}]},
        {"enum": ["a", "b"]},
    ],
)
def test_an_optional_string_is_a_string_with_sound_quotes(schema: Any) -> None:
    with_defs = tool("f", s=schema)
    with_defs["function"]["parameters"]["$defs"] = {"Name": STRING}
    assert parse(call("f", s='say "a"'), [with_defs]).arguments == [{"s": 'say "a"'}]
    assert parse(call("f", s="10"), [with_defs]).arguments == [{"s": "10"}]


def test_a_schema_that_refers_to_itself_over_and_over_is_read_at_once() -> None:
    loop = {"anyOf": [{"$ref": "#/$defs/A"}] * 50}
    tools = tool("f", s=loop)
    tools["function"]["parameters"]["$defs"] = {"A": loop}
    assert parse(call("f", s="10"), [tools]).arguments == [{"s": 10}]


def test_an_array_is_not_closed_twice() -> None:
    tools = [tool("f", a={"anyOf": [{"type": "array"}, {"type": "null"}]})]
    assert parse(call("f", a="[1, [2]]"), tools, cuts=range(99)).calls == [["f", '{"a": [1, [2]]}']]


def test_a_value_shorter_than_its_text_does_not_cost_the_closing_brace() -> None:
    tools = [tool("f", n={"type": "number"})]
    assert parse(call("f", n="\n   10   \n"), tools, cuts=range(99)).calls == [["f", '{"n": 10}']]


def test_without_tools_nothing_is_taken_for_a_call_and_no_text_comes_twice() -> None:
    assert parse(f"Write {PARIS} then.", cuts=range(99)) == Parsed(content=f"Write {PARIS} then.")
    assert parse(f"think {PARIS_47}</think>answer", (), "reasoning").reasoning == f"think {PARIS_47}"


def test_numbers_are_not_quoted_and_strings_that_look_like_json_stay_strings() -> None:
    tools = [tool("f", n={"type": "integer"}, s=STRING)]
    assert parse(call("f", n="10", s='{"a": 1}'), tools).arguments == [{"n": 10, "s": '{"a": 1}'}]
    assert parse(call("f", s="10"), tools).arguments == [{"s": "10"}]


@pytest.mark.parametrize(("text", "value"), [("null", None), ("3", 3), ("three", "three")])
def test_a_union_without_string_is_parsed(text: str, value: object) -> None:
    tools = [tool("f", n={"type": ["integer", "null"]})]
    assert parse(call("f", n=text), tools).arguments == [{"n": value}]


def test_a_model_that_never_closes_its_reasoning_still_gives_an_answer() -> None:
    assert parse("The answer is 4.", (), "reasoning") == Parsed(
        reasoning="The answer is 4.", content="The answer is 4."
    )


def test_reasoning_that_was_cut_off_is_not_an_answer() -> None:
    assert parse("Well, 2 plus", (), "reasoning", finish="length") == Parsed(reasoning="Well, 2 plus")
    assert parse("Well, 2 plus", (), "reasoning", stop_reason="END") == Parsed(reasoning="Well, 2 plus")


def test_with_thinking_off_the_reply_is_content() -> None:
    prompt = TOKENIZER.encode("[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>")
    start = MARKERS.start_state(prompt, TOKENIZER)
    assert parse("\nHello", (), start) == Parsed(content="Hello")


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("<|user|>Hi<|assistant|><think>", "Well.</think>Hello"),
        ("<|user|>Hi<|assistant|>\n<think>\n", "Well.\n</think>\n\nHello"),
        ("<|user|>\nHi<|assistant|>", "\n<think>Well.</think>\nHello"),
    ],
)
def test_reasoning_is_found_whether_prompt_or_model_opens_it(prompt: str, reply: str) -> None:
    start = MARKERS.start_state(TOKENIZER.encode(prompt), TOKENIZER)
    assert parse(reply, (), start) == Parsed(reasoning="Well.", content="Hello")


def test_a_think_tag_in_a_users_message_does_not_open_the_reasoning() -> None:
    assert MARKERS.start_state(TOKENIZER.encode("<|user|>What is <think>?<|assistant|>"), TOKENIZER) == "open"
    assert MARKERS.start_state(TOKENIZER.encode("<|user|><think><|assistant|>"), TOKENIZER) == "open"


# --- formats ---


@pytest.mark.parametrize("template", ["glm45", "glm47"])
def test_what_a_template_writes_is_read_back(template: str) -> None:
    arguments = {"s": 'x\n "y"\t\\ ü', "n": 3, "o": {"a": [1, None]}, "b": True, "e": ""}
    message = {
        "role": "assistant",
        "content": "On it.",
        "reasoning_content": "R",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}, {"function": {"name": "now"}}],
    }
    text = ChatTemplate(builtin_template(template)).render([{"role": "user", "content": "U"}, message])
    reply = text.split("<|assistant|>")[1].replace("<|observation|>", "")
    tools = [tool("f", s=STRING, e=STRING, n={"type": "integer"}, o={}, b={"type": "boolean"}), NOW]
    parsed = parse(reply, tools, "open", cuts=range(0, 300, 3))
    assert (parsed.reasoning, parsed.content) == ("R", "On it.")
    assert [name for name, _ in parsed.calls] == ["f", "now"]
    assert parsed.arguments == [arguments, {}]


def test_tags_spelled_by_other_tokens_are_text() -> None:
    ids = [token for character in "<think>a</think>" for token in TOKENIZER.encode(character)]
    assert not set(ids) & set(MARKERS.names)
    assert put_together(parser((), "open").push(ids, "<think>a</think>", "stop")) == Parsed(content="<think>a</think>")


def test_an_undeclared_function_is_shown_as_text() -> None:
    text = f"Look: {call('delete_all', path='/')}"
    assert parse(text, [NOW]) == Parsed(content=text)


def test_a_reply_cut_off_in_an_argument_keeps_what_came_and_one_that_ended_is_closed() -> None:
    text = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Par"
    assert parse(text, [WEATHER], finish="length").calls == [["get_weather", '{"city": "Par']]
    assert parse(text, [WEATHER]).calls == [["get_weather", '{"city": "Par"}']]
    assert parse("<tool_call>now", [NOW], finish="length") == Parsed(content="<tool_call>now")


def test_calls_follow_each_other_and_text_around_them_is_content() -> None:
    parsed = parse(f"Both.\n{PARIS}\n{PARIS_47}\n", [WEATHER], cuts=range(0, 300, 7))
    assert parsed.content == "Both."
    assert parsed.arguments == [{"city": "Paris"}] * 2


def test_a_call_tag_inside_a_string_is_text() -> None:
    code = "print('<tool_call>')"
    assert parse(call("f", s=code), [tool("f", s=STRING)]).arguments == [{"s": code}]


def test_what_a_stop_string_took_back_is_not_given_out() -> None:
    reply = parser((), "answer")
    ids = TOKENIZER.encode("one two")
    assert [p.text for p in reply.push(ids, "one", "stop", " two")] == ["one"]


def test_tokens_of_the_reasoning_are_counted() -> None:
    reply = parser([WEATHER], "reasoning")
    for ids, text in deltas("abc</think>defg", (2, 5)):
        reply.push(ids, text)
    assert reply.num_reasoning_tokens == 3


def test_an_answer_that_is_a_json_call_is_a_call() -> None:
    text = '{"name": "get_weather", "arguments": {"city": "a}\\"b", "days": 2}}'
    parsed = parse(text, [WEATHER], cuts=range(99), answer_may_be_call=True)
    assert parsed == Parsed(calls=[["get_weather", '{"city": "a}\\"b", "days": 2}']])


@pytest.mark.parametrize("text", ["Hello {}", '{"name": "rm", "arguments": {}}', '{"a": 1}', '{"name": "Ann"}', "{"])
def test_an_answer_that_might_have_been_a_call_is_shown_as_soon_as_it_is_none(text: str) -> None:
    assert parse(text, [WEATHER], cuts=range(99), answer_may_be_call=True) == Parsed(content=text)
    reply = parser([WEATHER], answer_may_be_call=True)
    assert [part.text for part in reply.push(TOKENIZER.encode("No, "), "No, ")] == ["No, "]


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([{"type": "retrieval"}], "tools[0] is"),
        ([tool("")], "tools[0].function.name is ''"),
        ([NOW, NOW], "tools[1].function.name is 'now', as of an earlier tool"),
        ([{"type": "function", "function": {"name": "f", "parameters": "x"}}], "tools[0].function.parameters is 'x'"),
    ],
)
def test_a_malformed_tool_is_refused_by_its_place(tools: list[Any], problem: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        tool_schemas(tools)
    assert str(caught.value).startswith(problem)


# --- any split, any text ---

PIECES = st.one_of(
    st.sampled_from([*TAGS, "\n", "get_weather", "now", "city", "10", '"', "\\", "{", "é", "中"]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


@given(
    st.lists(PIECES, max_size=25),
    st.lists(st.integers(1, 80), max_size=8),
    st.sampled_from(["open", "answer", "reasoning"]),
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_every_split_of_the_stream_gives_the_whole_reply(
    pieces: list[str], cuts: list[int], start: Any, finish: str, as_call: bool
) -> None:
    text = "".join(pieces)
    options: dict[str, Any] = {"finish": finish, "answer_may_be_call": as_call}
    tools = [WEATHER, NOW]
    whole = put_together(parts_of(text, tools, start, **options))
    assert put_together(parts_of(text, tools, start, cuts=cuts, **options)) == whole
    assert put_together(parts_of(text, tools, start, cuts=range(400), **options)) == whole


@given(
    st.dictionaries(
        st.sampled_from(["s", "t"]), st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('ab"\\', max_size=3),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    ),
)
def test_any_arguments_survive_the_way_through_template_and_parser(strings: dict[str, str], other: Any) -> None:
    if any(tag in text for text in strings.values() for tag in TAGS):
        return
    text = call("f", **strings, o=json.dumps(other))
    tools = [tool("f", s=STRING, t=STRING, o={"type": "array"})]
    assert parse(text, tools, cuts=range(0, 400, 5)).arguments == [{**strings, "o": other}]
