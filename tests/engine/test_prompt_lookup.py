"""The index of repeats: what followed the longest repeat of a text's end, whatever way the text grew."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.engine.prompt_lookup import PromptLookup, RepeatIndex
from glm_crush.engine.request import Request
from glm_crush.types import SamplingParams

pytestmark = pytest.mark.requirement("E7")


def make_request(tokens: Sequence[int]) -> Request:
    return Request("r", tokens, SamplingParams(), max_tokens=100)


def guess(tokens: Sequence[int], length: int) -> list[int] | None:
    lookup, request = PromptLookup(), make_request(tokens)
    if lookup.certainty(request) is None:
        return None
    return list(lookup.draft({request: length})[request])


def longest_repeat(tokens: Sequence[int]) -> int:
    """Length of the longest end of the text that stands in it before, up to 32, by trying all of them."""
    n = len(tokens)
    best = 0
    for place in range(1, n):
        length = 0
        while length < min(place, 32) and tokens[place - 1 - length] == tokens[n - 1 - length]:
            length += 1
        best = max(best, length)
    return best


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),
        ([5, 1, 2, 3, 8, 1, 2, 4, 5, 1, 2], [3, 8, 1]),  # three tokens alike beat two that came later
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # of equal ones the latest
        ([7, 7, 7], [7, 7, 7]),  # a repeat that reaches the end goes round
        ([1, 2, 1, 2, 1, 2], [1, 2, 1]),
        ([1, 2, 3, 4], None),
        ([1, 2], None),
        ([1], None),
    ],
)
def test_the_guess_is_what_followed_the_longest_repeat(tokens, expected):
    assert guess(tokens, 3) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(1, 9), max_size=60))
def test_the_index_knows_the_same_however_the_text_grew(tokens, steps):
    """In one go or in pieces, the repeat it names is one; while few places are alike it is the longest."""
    index, text, position = RepeatIndex(), array("i"), 0
    for step in [*steps, len(tokens)]:
        text.extend(tokens[position : position + step])
        position = min(len(tokens), position + step)
        index.update(text)
        assert bool(index.source) == (longest_repeat(text) >= 2)
        if index.source:
            count = index.length
            assert text[index.source - count : index.source] == text[len(text) - count :]
            assert 2 <= count <= longest_repeat(text)
            assert 0 < index.source < len(text)


@given(st.lists(st.integers(0, 7), min_size=3, max_size=24))
def test_with_few_places_alike_the_repeat_is_the_longest(tokens):
    index = RepeatIndex()
    index.update(array("i", tokens))
    if sum(pair == (tokens[-2], tokens[-1]) for pair in pairwise(tokens)) <= 8:
        assert index.length == (longest_repeat(tokens) if longest_repeat(tokens) >= 2 else 0)


def test_longer_repeats_are_more_certain():
    certainties = []
    for length in (2, 3, 4, 5, 9, 10, 31):
        repeat = list(range(length))
        certainties.append(PromptLookup().certainty(make_request([90, *repeat, 99, *repeat])))
    assert certainties == [0, 1, 1, 2, 2, 3, 3]
    assert PromptLookup().certainty(make_request([1, 2, 3])) is None


def test_a_repeat_grows_with_the_text_and_ends_where_they_part():
    request, lookup = make_request([1, 2, 3, 4, 5, 6, 1, 2]), PromptLookup()
    assert lookup.certainty(request) == 0
    request.token_ids.extend([3, 4, 5])
    assert lookup.certainty(request) == 2
    request.token_ids.append(8)
    assert lookup.certainty(request) is None


def test_an_append_looks_at_the_new_token_only():
    """The index never reads what it has seen, but for a few tokens before each of at most eight places."""

    class Counting(array):
        reads = 0

        def __getitem__(self, key):
            Counting.reads += 1
            return super().__getitem__(key)

    index, text = RepeatIndex(), Counting("i", [position % 1009 for position in range(20_000)])
    index.update(text)
    text.append(5)
    Counting.reads = 0
    index.update(text)
    assert Counting.reads < 600
