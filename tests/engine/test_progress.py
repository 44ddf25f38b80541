"""Whoever asks is told how far the prompt has been read; nobody else is, and the reply is the same."""

from __future__ import annotations

import asyncio

import pytest

from glm_crush.engine.output import PromptProgress, RequestDelta
from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.engine.process.wire import FrameReader, Step, Submit, decode_from_child, encode
from glm_crush.engine.stream import TokenStream
from glm_crush.types import SamplingParams
from tests.engine.scripted import greedy, make_engine, run_deltas

pytestmark = pytest.mark.requirement("S1")


def told(deltas: list[RequestDelta]) -> list[tuple[int, int, int]]:
    return [(d.progress.total, d.progress.cached, d.progress.processed) for d in deltas if d.progress is not None]


def test_every_part_of_a_prompt_is_told_and_then_its_end_before_the_first_token():
    engine = make_engine(token_budget=8)
    engine.add_request(list(range(20)), greedy(max_tokens=2, return_progress=True))
    engine.add_request(list(range(20)), greedy(max_tokens=2))
    deltas = run_deltas(engine)
    mine = [delta for delta in deltas if delta.request_id == deltas[0].request_id]
    assert told(deltas) == told(mine) == [(20, 0, 8), (20, 0, 16), (20, 0, 20)]
    assert [bool(delta.token_ids) for delta in mine] == [False, False, False, True, True]


def test_what_was_computed_before_counts_as_read():
    engine = make_engine(prefix_cache=True, token_budget=8)
    engine.add_request(list(range(20)), greedy(max_tokens=1))
    run_deltas(engine)
    engine.add_request([*range(16), 1, 2, 3], greedy(max_tokens=1, return_progress=True))
    assert told(run_deltas(engine)) == [(19, 16, 19)]


def test_replies_of_one_prompt_tell_it_once():
    engine = make_engine(prefix_cache=True, token_budget=8)
    engine.add_request(list(range(12)), greedy(max_tokens=1, n=3, return_progress=True))
    assert told(run_deltas(engine)) == [(12, 0, 8), (12, 0, 12)]


def test_progress_crosses_to_another_process_and_is_no_beginning_of_a_reply():
    delta = RequestDelta("a", 0, (), "", progress=PromptProgress(20, 4, 8, 0.5))
    (body,) = FrameReader().feed(encode(Step([delta])))
    assert decode_from_child(body).deltas == [delta]  # type: ignore[union-attr]
    loop = asyncio.new_event_loop()
    loop.close()
    for resume in (False, True):
        request = OpenRequest(TokenStream(loop), Submit("a", b"", SamplingParams()), resume, patience_until=10.0)
        assert request.absorb(delta) == delta
        assert not request.begun
