"""Stop strings: never emitted, found wherever the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.engine.stop import StopStrings


def feed(stop: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    stop_strings = StopStrings(stop)
    emitted = [stop_strings.push(piece) for piece in pieces]
    emitted.append(stop_strings.flush())
    return emitted, stop_strings.matched


@pytest.mark.parametrize(
    ("stop", "pieces", "emitted", "matched"),
    [
        ([], ["ab", "c"], ["ab", "c", ""], None),
        (["END"], ["say E", "N", "D now"], ["say ", "", "", ""], "END"),
        (["END"], ["say E", "NX"], ["say ", "ENX", ""], None),
        (["END"], ["say EN"], ["say ", "EN"], None),
        (["\n\n"], ["a\n", "b\n", "\n"], ["a", "\nb", "", ""], "\n\n"),
        (["abcd", "bc"], ["ab", "c", "x"], ["", "", "a", ""], "bc"),
        (["abcd", "bc"], ["abc"], ["", "a"], "bc"),
        (["abc", "ab"], ["abc"], ["", ""], "ab"),
    ],
)
def test_text_that_could_become_a_stop_string_is_held_back(stop, pieces, emitted, matched):
    assert feed(stop, pieces) == (emitted, matched)


@given(
    text=st.text("abc", max_size=20),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
)
def test_how_the_text_is_cut_makes_no_difference(text, stop, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    emitted, matched = feed(stop, pieces)
    found = sorted((text.find(s), len(s), s) for s in stop if s in text)
    assert "".join(emitted) == (text[: found[0][0]] if found else text)
    assert matched == (found[0][2] if found else None)
