"""How far to guess: the sum that decides, and what it learns from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.engine.draft_lengths import StepCosts, choose_lengths
from glm_crush.engine.draft_record import DraftRecord

pytestmark = pytest.mark.requirement("E7")


def speed(lengths, rates, num_seqs, share):
    tokens = num_seqs + sum(rate**j for rate, n in zip(rates, lengths, strict=True) for j in range(1, n + 1))
    return tokens / (1 + share * sum(lengths))


def test_sure_guesses_are_long_and_doubtful_ones_short():
    assert choose_lengths([0.9], [12], num_seqs=1, share=0.125) == [9]
    assert choose_lengths([0.5], [12], num_seqs=1, share=0.125) == [2]
    assert choose_lengths([0.2], [12], num_seqs=1, share=0.125) == [1]
    assert choose_lengths([0.1], [12], num_seqs=1, share=0.125) == [0]


def test_the_surest_of_several_requests_goes_first():
    assert choose_lengths([0.9, 0.3], [12, 12], num_seqs=2, share=0.125) == [7, 0]


def test_where_a_step_is_full_of_work_a_guess_must_be_nearly_certain():
    assert choose_lengths([0.9] * 32, [12] * 32, num_seqs=32, share=1 / 34) == [0] * 32


def test_no_draft_is_longer_than_its_limit():
    assert choose_lengths([0.99, 0.99], [3, 0], num_seqs=2, share=0.1) == [3, 0]


@given(
    rates=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3),
    share=st.floats(0.02, 0.6),
    others=st.integers(0, 3),
)
def test_no_other_lengths_are_faster(rates, share, others):
    num_seqs, limits = len(rates) + others, [5] * len(rates)
    chosen = choose_lengths(rates, limits, num_seqs=num_seqs, share=share)
    fastest = max(speed(n, rates, num_seqs, share) for n in itertools.product(range(6), repeat=len(rates)))
    assert speed(chosen, rates, num_seqs, share) == pytest.approx(fastest)


def test_the_price_of_a_guess_is_measured():
    costs = StepCosts()
    assert costs.share_per_draft(2) == 1 / 8
    costs.record(2, 0, 0.004)
    for _ in range(60):
        costs.record(2, 4, 0.006)
    assert costs.share_per_draft(2) == pytest.approx(0.125, rel=1e-3)
    for _ in range(60):
        costs.record(2, 4, 0.0044)
    assert costs.share_per_draft(2) == pytest.approx(0.025, rel=1e-3)


def test_one_interruption_does_not_make_guesses_dear():
    costs = StepCosts()
    costs.record(1, 0, 0.004)
    before = costs.share_per_draft(1)
    costs.record(1, 1, 2.0)
    assert costs.share_per_draft(1) < 2 * before


def test_a_clock_that_stands_still_teaches_nothing():
    costs = StepCosts()
    costs.record(1, 0, 0.0)
    costs.record(1, 3, 0.0)
    assert costs.share_per_draft(1) == 1 / 7


def test_a_record_follows_what_it_sees():
    record = DraftRecord([0.5, 0.9])
    assert record.note(0, 0, 3, 10) == 0.0
    assert record.rates == [0.375, 0.9]
    assert record.note(0, 2, 2, 13) == 1.0
    assert record.rates == pytest.approx([1 - 0.625 * 0.5625, 0.9])
    assert record.note(1, 1, 4, 15) == 0.5
    assert record.rates[1] == pytest.approx((1 - 0.1 * 0.75) * 0.75)


def test_pauses_double_with_every_try_in_vain_and_end_with_a_success():
    record, position, tries = DraftRecord([0.1]), 0, []
    while position < 1400:
        position += 1
        if record.may_probe(position):
            tries.append(position)
            record.note(0, 0, 1, position)
    assert tries == [16, 48, 112, 240, 496, 752, 1008, 1264]
    assert not record.is_hopeful(1400)
    record.note(0, 2, 4, 1400)
    assert not record.is_hopeful(1400)
    record.note(0, 3, 4, 1400)
    assert record.is_hopeful(1416)
    assert not record.is_hopeful(1417)
    assert record.may_probe(1416)
