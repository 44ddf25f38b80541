"""Calls under a grammar: whatever the model would rather write, what it calls was declared and the arguments fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.chat.reply_markers import ReplyMarkers
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.tool_grammar import answer_or_call_grammar, call_grammar, styled_schema
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.types import StructuredOutput
from tests.chat.parsed_reply import MARKERS, NOW, STRING, TOKENIZER, Parsed, put_together, tool
from tests.engine.grammar_models import noise, reply, wants

pytestmark = pytest.mark.requirement("E2")

# Qwen's form: the same tags around JSON, none for arguments; and a model without tags.
HERMES = ReplyMarkers.of({text: i for text, i in TOKENIZER.added_ids.items() if "arg_" not in text})
PLAIN = ReplyMarkers.of({})
FORMS = pytest.mark.parametrize("markers", [MARKERS, HERMES, PLAIN], ids=["glm", "hermes", "plain"])

PLAN = tool("plan", ["city", "days"], city={"enum": ["Rome", "Oslo"]}, days={"type": "integer"}, note=STRING)
TREE = tool("tree", ["root"], root={"$ref": "#/$defs/Node"})
TREE["function"]["parameters"]["$defs"] = {
    "Node": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    }
}
TOOLS = tool_schemas([PLAN, NOW, TREE])


def fits(name: str, arguments: Mapping[str, Any]) -> bool:
    if name == "now":
        return arguments == {}
    if name == "plan":
        known = {"city", "days"} <= set(arguments) <= {"city", "days", "note"}
        return known and arguments["city"] in ("Rome", "Oslo") and type(arguments["days"]) is int
    node = arguments["root"]
    while node is not None:
        assert set(node) == {"next"}
        node = node["next"]
    return set(arguments) == {"root"}


def answered(
    markers: ReplyMarkers, structured: StructuredOutput, logits: Any = noise, **params: Any
) -> tuple[Any, Any]:
    output = reply(structured, logits, **{"max_tokens": 110, **params})
    parser = ReplyParser(
        markers,
        lambda: IncrementalDetokenizer(TOKENIZER),
        start="answer",
        tools=TOOLS,
        answer_may_be_call=markers.tool_format is None,
    )
    return output, put_together(parser.push(output.token_ids, output.text, output.finish_reason, output.stop_reason))


@FORMS
@given(st.integers(0, 2**32))
def test_a_required_call_is_a_declared_one_with_fitting_arguments(markers: ReplyMarkers, seed: int) -> None:
    output, parsed = answered(markers, call_grammar(markers, TOOLS, number="some"), seed=seed)
    if output.finish_reason == "stop":
        assert parsed.content == ""
        assert parsed.calls
        assert all(fits(name, arguments) for (name, _), arguments in zip(parsed.calls, parsed.arguments, strict=True))


@FORMS
def test_a_named_tool_is_called_once_and_nothing_else_is_said(markers: ReplyMarkers) -> None:
    structured = call_grammar(markers, {"now": TOOLS["now"]}, number="one")
    output, parsed = answered(markers, structured, wants("I would rather talk."), temperature=0.0)
    assert output.finish_reason == "stop"
    assert parsed == Parsed(calls=[["now", "{}"]])


@pytest.mark.parametrize("feed", ["", "\n"])
def test_calls_may_be_written_in_the_form_of_46_and_of_47(feed: str) -> None:
    text = (
        f"<tool_call>plan{feed}<arg_key>city</arg_key>{feed}<arg_value>Oslo</arg_value>{feed}<arg_key>days</arg_key>"
        f"{feed}<arg_value>3</arg_value>{feed}</tool_call>{feed}<tool_call>now{feed}</tool_call>"
    )
    output, parsed = answered(MARKERS, call_grammar(MARKERS, TOOLS, number="some"), wants(text), temperature=0.0)
    assert output.text == text
    assert parsed == Parsed(calls=[["plan", '{"city": "Oslo", "days": 3}'], ["now", "{}"]])


def test_a_free_text_argument_may_hold_anything_but_the_tags() -> None:
    schemas = tool_schemas([tool("say", ["text"], text=STRING)])
    text = '<tool_call>say<arg_key>text</arg_key><arg_value>a "b"\n<c> {</arg_value></tool_call>'
    output = reply(call_grammar(MARKERS, schemas, number="one"), wants(text), temperature=0.0)
    assert output.text == text


def test_undeclared_arguments_are_let_through_where_the_schema_says_so() -> None:
    open_tool = tool("f")
    open_tool["function"]["parameters"]["additionalProperties"] = True
    text = "<tool_call>f<arg_key>any</arg_key><arg_value>1</arg_value></tool_call>"
    assert reply(
        call_grammar(MARKERS, tool_schemas([open_tool]), number="one"), wants(text), temperature=0.0
    ).text.startswith("<tool_call>f<arg_key>any</arg_key><arg_value>1</arg_value>")


@pytest.mark.parametrize("wanted", ['{"n": 4}', "<tool_call>now</tool_call>"])
def test_an_answer_of_a_schema_or_a_call_as_the_model_likes(wanted: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = StructuredOutput.json_schema(styled_schema({**schema, "additionalProperties": False}, lenient=False))
    structured = answer_or_call_grammar(MARKERS, TOOLS, answer)
    output = reply(structured, wants(wanted), temperature=0.0)
    assert output.text == wanted


def test_an_answer_and_calls_need_a_model_that_marks_its_calls() -> None:
    with pytest.raises(InvalidParameterError, match="need a model that marks its calls"):
        answer_or_call_grammar(PLAIN, TOOLS, StructuredOutput.json_object())
    with pytest.raises(InvalidParameterError, match="a JSON format"):
        answer_or_call_grammar(MARKERS, TOOLS, StructuredOutput.regex("a"))


def test_keywords_that_cannot_be_enforced_do_not_stop_a_tool_from_being_called() -> None:
    odd = tool("f", ["n"], n={"type": "integer", "not": {"const": 3}})
    structured = call_grammar(MARKERS, tool_schemas([odd]), number="one")
    text = "<tool_call>f<arg_key>n</arg_key><arg_value>7</arg_value></tool_call>"
    assert reply(structured, wants(text), temperature=0.0).text == text


@FORMS
def test_a_strict_tool_with_such_a_keyword_is_refused(markers: ReplyMarkers) -> None:
    odd = tool("f", ["n"], n={"type": "integer", "not": {"const": 3}})
    odd["function"]["strict"] = True
    with pytest.raises(InvalidParameterError, match="Unimplemented keys"):
        reply(call_grammar(markers, tool_schemas([odd]), number="one"))


def test_a_call_in_the_reasoning_begins_the_grammar() -> None:
    structured = replace(
        call_grammar(MARKERS, TOOLS, number="one"),
        begins="after_reasoning",
        think_token_ids=(TOKENIZER.added_ids["<think>"], TOKENIZER.added_ids["</think>"]),
    )
    text = "I need the time<tool_call>now</tool_call>"
    assert reply(structured, wants(text), temperature=0.0).text == text
