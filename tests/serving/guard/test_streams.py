"""However a text is cut into pieces, the guard does the same about it; and it holds back a bounded piece."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm_crush.serving.guard.credentials import credential_rules
from glm_crush.serving.guard.filters import Filtered, Filters
from glm_crush.serving.guard.own_rules import pattern_rule, word_rule
from glm_crush.serving.guard.pii import pii_rules
from glm_crush.serving.guard.policy import DirectionPolicy, RuleBook
from tests.serving.guard.texts import CLEAN, PEM, PRIVATE, SECRETS

pytestmark = pytest.mark.requirement("S7")


@cache
def filters(action: Any = "redact") -> Filters:
    own = (word_rule("words.firms", ["Acme Ltd"]), pattern_rule("patterns.ticket", r"\bT-\d{3,6}\b"))
    rules = (*credential_rules(), *pii_rules(), *own)
    return Filters(DirectionPolicy(action, {rule.name: action for rule in rules}), RuleBook(rules, ()))


def in_pieces(text: str, cuts: list[int], action: Any = "redact", *, is_json: bool = False) -> Filtered:
    """What comes out when the text comes in pieces."""
    flow, out, found, start = filters(action).begin(is_json=is_json), [], [], 0
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {len(text)})
    for number, end in enumerate(places):
        step = flow.push(text[start:end], final=number == len(places) - 1)
        start = end
        out.append(step.text)
        found += step.found
        assert flow.num_held <= filters(action).largest + 1
        if step.blocked_by is not None:
            return Filtered("".join(out), tuple(found), step.blocked_by)
    return Filtered("".join(out), tuple(found))


KNOWN = [*(text for text, _ in (*PRIVATE, *SECRETS)), *CLEAN, "Acme  Ltd", "T-12345", "a\u200bb", PEM[:60]]
PIECES = st.one_of(
    st.sampled_from(KNOWN),
    st.sampled_from(KNOWN).flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[:n])),
    st.text('0123456789 .-/()+@:=aAbEe中é\u200b"\\\n', max_size=12),
    st.text(max_size=8),
)
TEXTS = st.lists(PIECES, max_size=5).map("".join)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize("action", ["redact", "flag", "block"])
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cuts=CUTS)
@example(text="4111 1111 1111 1111 1111 1111 1111 1111", cuts=[7, 20])
@example(text="+1 2 3 4 5 6 7 8 9 a@b.c", cuts=[3, 9])
@example(text="-----BEGIN PRIVATE KEY-----" + "A" * 20_000, cuts=[40, 9000])
@example(text="eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.a", cuts=[20, 30])
def test_any_split_gives_what_the_whole_gives(action: Any, text: str, cuts: list[int]) -> None:
    pieces, whole = in_pieces(text, cuts, action), filters(action).apply(text)
    assert (pieces.text, pieces.blocked_by) == (whole.text, whole.blocked_by)
    if action != "block":  # of what stands behind it, pieces know less
        assert sorted(pieces.found) == sorted(whole.found)


@pytest.mark.parametrize("text", [" ".join(text for text, _ in (*PRIVATE, *SECRETS)), "\n".join(CLEAN)])
def test_character_by_character_is_the_same_too(text: str) -> None:
    pieces, whole = in_pieces(text, list(range(len(text)))), filters().apply(text)
    assert (pieces.text, sorted(pieces.found)) == (whole.text, sorted(whole.found))


def test_ordinary_words_are_held_no_longer_than_to_their_end() -> None:
    flow = filters().begin()
    assert flow.push("The quick brown fo").text == "The quick brown "
    assert flow.push("x jumps").text == "fox "
    assert flow.push("今天天气很好").text == "jumps今天天气很好"


@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.one_of(st.integers(), st.sampled_from([text for text, _ in PRIVATE]), st.just(4111111111111111), st.none()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    ),
    cuts=CUTS,
)
def test_arguments_of_calls_stay_json(value: Any, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    filtered = in_pieces(text, cuts, is_json=True)
    json.loads(filtered.text)
    assert filtered == filters().apply(text, is_json=True)


def test_a_number_outside_of_texts_becomes_a_text() -> None:
    assert filters().apply('{"card": 4111111111111111}', is_json=True).text == '{"card": "[CARD]"}'
