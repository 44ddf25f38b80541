"""The arrays of a step, literally."""

from __future__ import annotations

from glm_crush.engine.forward_batch import ForwardBatchBuilder
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import ScheduledBatch, ScheduledRequest
from glm_crush.types import SamplingParams
from tests.engine.scripted import make_limits


def make_request(tokens: list[int], table: list[int]) -> Request:
    request = Request("r", tokens, SamplingParams(), max_tokens=8)
    request.block_table = table
    return request


def make_builder() -> ForwardBatchBuilder:
    return ForwardBatchBuilder(make_limits(max_context=16), block_size=4)


def test_sequences_lie_back_to_back_with_their_positions_and_tables():
    decoding = make_request([10, 11, 12, 13, 14], [7, 2])
    chunk = make_request([20, 21, 22, 23], [5])
    parts = (ScheduledRequest(decoding, 4, 1, samples=True), ScheduledRequest(chunk, 0, 3, samples=False))
    batch = make_builder().build(ScheduledBatch(parts))
    assert batch.token_ids.tolist() == [14, 20, 21, 22]
    assert batch.positions.tolist() == [4, 0, 1, 2]
    assert batch.query_start.tolist() == [0, 1, 4]
    assert batch.context_lens.tolist() == [5, 3]
    assert batch.block_tables.tolist() == [[7, 2, -1, -1], [5, -1, -1, -1]]
    assert batch.logit_rows.tolist() == [0]


def test_scored_prompt_positions_want_the_logits_of_the_token_before():
    request = make_request([20, 21, 22, 23], [5])
    part = ScheduledRequest(request, 1, 3, samples=True, scored=range(2, 4))
    batch = make_builder().build(ScheduledBatch((part,)))
    assert batch.logit_rows.tolist() == [0, 1, 2]


def test_a_row_taken_over_by_another_request_keeps_nothing_of_the_first():
    builder = make_builder()
    long, short = make_request([1] * 12, [3, 4, 5]), make_request([2], [6])
    builder.build(ScheduledBatch((ScheduledRequest(long, 0, 12, samples=True),)))
    batch = builder.build(ScheduledBatch((ScheduledRequest(short, 0, 1, samples=True),)))
    assert batch.block_tables.tolist() == [[6, -1, -1, -1]]


def test_a_growing_table_is_followed():
    builder = make_builder()
    request = make_request([1] * 5, [3])
    builder.build(ScheduledBatch((ScheduledRequest(request, 0, 4, samples=False),)))
    request.block_table.append(9)
    batch = builder.build(ScheduledBatch((ScheduledRequest(request, 4, 1, samples=True),)))
    assert batch.block_tables.tolist() == [[3, 9, -1, -1]]
