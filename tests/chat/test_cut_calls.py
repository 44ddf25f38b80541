"""Calls that the reply's limit cuts in the middle: a call as far as it came, never the text that it was written in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.chat.reply_markers import ReplyMarkers
from tests.chat.parsed_reply import MARKERS, NOW, TOKENIZER, WEATHER, Parsed, deltas, parse, parts_of, put_together

pytestmark = pytest.mark.requirement("E2", "S1")

# Qwen's form: the same tags around JSON; and a model without tags, whose answer is the call.
HERMES = ReplyMarkers.of({text: i for text, i in TOKENIZER.added_ids.items() if "arg_" not in text})
PLAIN = ReplyMarkers.of({})

GLM_CALL = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>"
JSON_CALL = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
FORMS: Any = {
    "glm": (GLM_CALL, {"markers": MARKERS}),
    "glm46": (GLM_CALL.replace("><", ">\n<").replace("weather", "weather\n"), {"markers": MARKERS}),
    "hermes": (f"<tool_call>{JSON_CALL}</tool_call>", {"markers": HERMES}),
    "plain": (JSON_CALL, {"markers": PLAIN, "answer_may_be_call": True}),
}


def cut_reply(form: str, num_tokens: int, *, cuts: Any = (), held: bool = True) -> Parsed:
    """What clients have of the first tokens of a call."""
    text, options = FORMS[form]
    [(ids, _)] = deltas(text)
    kept = TOKENIZER.decode(ids[:num_tokens])
    parts = parts_of(kept, [WEATHER, NOW], cuts=cuts, finish="length", calls_are_held=held, **options)
    return put_together(parts)


def num_tokens(text: str) -> int:
    return len(TOKENIZER.encode(text))


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_call_is_what_came_of_its_arguments_and_never_text(form: str) -> None:
    seen = set()
    for length in range(1, num_tokens(FORMS[form][0]) + 1):
        parsed = cut_reply(form, length)
        assert parsed.content == ""
        for name, arguments in parsed.calls:
            assert name == "get_weather"
            assert '{"city": "Oslo"}'.startswith(arguments)
            seen.add(arguments)
    assert {'{"city": "', '{"city": "Os', '{"city": "Oslo"}'} <= seen


@given(st.sampled_from([*FORMS]), st.integers(1, 80), st.lists(st.integers(1, 80), max_size=8), st.booleans())
def test_every_split_of_a_cut_call_gives_the_whole(form: str, length: int, cuts: list[int], held: bool) -> None:
    whole = cut_reply(form, length, held=held)
    assert cut_reply(form, length, held=held, cuts=cuts) == whole
    assert cut_reply(form, length, held=held, cuts=range(200)) == whole


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"na', []),
        ('{"name": "get_weather', []),
        ('{"name": "get_weather"', [["get_weather", ""]]),
        ('{"name": "get_weather", "argu', [["get_weather", ""]]),
        ('{"name": "get_weather", "arguments": ', [["get_weather", ""]]),
        ('{"name": "get_weather", "arguments": {', [["get_weather", "{"]]),
    ],
)
@pytest.mark.parametrize("form", ["hermes", "plain"])
def test_a_json_call_has_its_name_once_that_is_whole(form: str, text: str, calls: Any) -> None:
    opening = "<tool_call>" if form == "hermes" else ""
    parsed = parse(opening + text, [WEATHER, NOW], finish="length", calls_are_held=True, **FORMS[form][1])
    assert parsed == Parsed(calls=calls)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("<tool_call>", []),
        ("<tool_call>now", []),  # it may have gone on
        ("<tool_call>now\n", [["now", ""]]),
        ("<tool_call>get_weather<arg_key>", [["get_weather", ""]]),
        ("<tool_call>get_weather<arg_key>city</arg_key><arg_value>", [["get_weather", '{"city": "']]),
    ],
)
def test_a_call_in_tags_has_its_name_once_that_is_whole(text: str, calls: Any) -> None:
    assert parse(text, [WEATHER, NOW], finish="length", calls_are_held=True) == Parsed(calls=calls)


def test_calls_and_text_before_a_cut_call_stay() -> None:
    text = f"Both.\n{GLM_CALL}\n<tool_call>get_w"
    parsed = parse(text, [WEATHER, NOW], cuts=range(99), finish="length", calls_are_held=True)
    assert parsed == Parsed(content="Both.", calls=[["get_weather", '{"city": "Oslo"}']])


def test_a_cut_answer_that_is_free_to_be_no_call_stays_text() -> None:
    for text in ('{"na', '{"name": "now"', '{"name": "now", "age"'):
        assert parse(text, [NOW], finish="length", **FORMS["plain"][1]) == Parsed(content=text)
