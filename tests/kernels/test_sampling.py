"""Sampling, twin and native: 4-entry distributions that can be checked by hand, then random ones against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush.errors import KernelError
from glm_crush.kernels.native import sample
from glm_crush.kernels.sampling import SampleBatch, SampleResult, philox_uniform, reference_sample

Sampler = Callable[[np.ndarray, SampleBatch], SampleResult]
PROBABILITIES = [0.5, 0.25, 0.15, 0.1]

both = pytest.mark.parametrize("draw", [reference_sample, sample], ids=["twin", "native"])


def make_batch(num_rows: int = 1, **overrides: object) -> SampleBatch:
    """Plain sampling at temperature 1, seeds 0, 1, 2...; a scalar override holds for every row."""
    batch = replace(
        SampleBatch.greedy(num_rows),
        temperature=np.ones(num_rows, np.float32),
        seed=np.arange(num_rows, dtype=np.uint64),
    )
    fields = {}
    for name, value in overrides.items():
        dtype = np.uint32 if name == "allowed_mask" else getattr(batch, name).dtype
        fields[name] = np.array(value, dtype) if np.ndim(value) else np.full(num_rows, value, dtype)
    return replace(batch, **fields)


def one_row(**overrides: object) -> SampleBatch:
    """A greedy row with CSR parts given as lists: history_ids/history_counts, bias_ids/bias_values."""
    if "history_ids" in overrides:
        overrides["history_start"] = [0, len(overrides["history_ids"])]
    if "bias_ids" in overrides:
        overrides["bias_start"] = [0, len(overrides["bias_ids"])]
    return make_batch(1, **{"temperature": 0.0, **overrides})


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def counts_of_draws(draw: Sampler, num_rows: int = 4000, **overrides: object) -> np.ndarray:
    logits = np.tile(np.log(np.array(PROBABILITIES, np.float32)), (num_rows, 1))
    return np.bincount(draw(logits, make_batch(num_rows, **overrides)).token_ids, minlength=4)


def chi_square(counts: np.ndarray, expected: list[float]) -> float:
    mean = np.array(expected) * counts.sum()
    return float(((counts - mean) ** 2 / mean).sum())


def test_philox_gives_the_published_numbers():
    """Random123's known answers: zeros give 6627e8d5 e169c58d ..., all ones 408f276d 41c83b0e ..."""
    assert philox_uniform(0, 0) == ((0xE169C58D6627E8D5 >> 12) + 0.5) / 2**52
    assert 0 < philox_uniform(2**64 - 1, 2**64 - 1) < 1


@both
def test_greedy_takes_the_likeliest_and_the_lowest_id_of_a_tie(draw):
    assert draw(row(1, 3, 2, 3), one_row()).token_ids.tolist() == [1]
    assert draw(row(-0.0, 0.0), one_row()).token_ids.tolist() == [0]


@both
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.724638, 0.181159, 0.065217, 0.028986]),
        ({"temperature": 2.0}, [0.370092, 0.261695, 0.202708, 0.165505]),
    ],
)
def test_tokens_come_as_often_as_their_probability_says(draw, overrides, expected):
    """Chi-square with 3 degrees of freedom passes 16.27 once in a thousand; the seeds are fixed."""
    assert chi_square(counts_of_draws(draw, **overrides), expected) < 16.27


@both
@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.4}, [0]),
        ({"top_p": 0.7}, [0, 1]),
        ({"top_p": 0.8}, [0, 1, 2]),
        ({"min_p": 0.25}, [0, 1, 2]),
        ({"min_p": 1.0}, [0]),
        ({"typical_p": 0.2}, [1]),  # entropy 1.21 nats; surprises 0.69, 1.39, 1.90, 2.30
        ({"typical_p": 0.7}, [0, 1]),
        ({"top_k": 3, "top_p": 0.8}, [0, 1]),  # 0.5 and 0.25 are 0.83 of the three kept
        ({"top_p": 0.8, "min_p": 0.4}, [0, 1]),
        ({"top_k": 2, "typical_p": 0.5}, [0]),  # of 2/3 and 1/3 the first is nearer to the entropy
    ],
)
def test_filters_keep_exactly_these_tokens_and_their_shares(draw, overrides, kept):
    counts = counts_of_draws(draw, **overrides)
    assert np.flatnonzero(counts).tolist() == kept
    shares = np.array(PROBABILITIES)[kept]
    assert chi_square(counts[kept], list(shares / shares.sum())) < 16.27


@both
def test_a_row_draws_the_same_token_alone_and_in_any_batch(draw):
    logits = np.random.default_rng(0).normal(size=(7, 300)).astype(np.float32)
    batch = make_batch(7, seed=[5] * 7, counter=range(7), top_p=0.9)
    together = draw(logits, batch).token_ids
    alone = [draw(logits[i : i + 1], make_batch(1, seed=5, counter=i, top_p=0.9)).token_ids[0] for i in range(7)]
    assert together.tolist() == alone
    assert len(set(draw(np.tile(logits[:1], (7, 1)), batch).token_ids.tolist())) > 1


@both
def test_repetition_penalty_divides_positive_and_multiplies_negative_logits(draw):
    history = {"history_ids": [0, 2], "history_counts": [1, 0], "repetition_penalty": 2.0}
    assert draw(row(3.0, 1.4, -9.0), one_row(**history)).token_ids.tolist() == [0]
    assert draw(row(3.0, 1.6, -9.0), one_row(**history)).token_ids.tolist() == [1]
    assert draw(row(-9.0, -1.6, -0.7), one_row(**history)).token_ids.tolist() == [2]
    assert draw(row(-9.0, -1.2, -0.7), one_row(**history)).token_ids.tolist() == [1]


@both
def test_presence_counts_once_and_frequency_per_occurrence_in_the_reply_only(draw):
    history = {"history_ids": [0, 1], "history_counts": [3, 0]}
    assert draw(row(2.0, 1.1), one_row(**history, presence_penalty=0.8)).token_ids.tolist() == [0]
    assert draw(row(2.0, 1.3), one_row(**history, presence_penalty=0.8)).token_ids.tolist() == [1]
    assert draw(row(2.0, 0.6), one_row(**history, frequency_penalty=0.5)).token_ids.tolist() == [1]
    assert draw(row(2.0, 0.4), one_row(**history, frequency_penalty=0.5)).token_ids.tolist() == [0]


@both
def test_bias_comes_before_the_mask_and_the_mask_wins(draw):
    biased = {"bias_ids": [2], "bias_values": [5.0]}
    assert draw(row(1, 2, 0), one_row(**biased)).token_ids.tolist() == [2]
    assert draw(row(1, 2, 0), one_row(**biased, allowed_mask=[[0b001]])).token_ids.tolist() == [0]


@both
def test_no_token_is_drawn_where_none_can_be(draw):
    for temperature in (0.0, 1.0):
        batch = one_row(temperature=temperature, num_logprobs=1)
        masked = draw(row(1, 2), replace(batch, allowed_mask=np.zeros((1, 1), np.uint32)))
        assert masked.token_ids.tolist() == [-1]
        assert np.isnan(masked.logprobs[0])
        assert draw(row(np.nan, -np.inf), batch).token_ids.tolist() == [-1]
        assert draw(row(np.nan, -np.inf, -50.0), batch).token_ids.tolist() == [2]


@both
def test_logprobs_are_of_the_unmodified_logits(draw):
    logits = np.log(np.array([PROBABILITIES], np.float32))
    biased = one_row(bias_ids=[3], bias_values=[9.0], num_logprobs=2)
    result = draw(logits, biased)
    assert result.token_ids.tolist() == [3]
    assert result.top_ids.tolist() == [[0, 1]]
    np.testing.assert_allclose(result.logprobs, [-2.302585], atol=1e-5)
    np.testing.assert_allclose(result.top_logprobs, [[-0.693147, -1.386294]], atol=1e-5)


@both
def test_logprobs_are_left_out_unless_asked_for_and_padded_to_the_widest_row(draw):
    result = draw(np.zeros((3, 2), np.float32), make_batch(3, temperature=0.0, num_logprobs=[-1, 0, 3]))
    assert np.isnan(result.logprobs[0])
    assert result.logprobs[1] == pytest.approx(-0.693147, abs=1e-5)
    assert result.top_ids.tolist() == [[-1, -1, -1], [-1, -1, -1], [0, 1, -1]]
    assert np.isneginf(result.top_logprobs[2, 2])


@both
@pytest.mark.parametrize(
    ("batch", "named"),
    [
        (make_batch(1, top_p=[1.0, 1.0]), "top_p"),
        (one_row(bias_ids=[9], bias_values=[1.0]), "bias_ids .*9"),
        (one_row(history_ids=[-1], history_counts=[1]), "history_ids .*-1"),
        (one_row(history_ids=[1], history_counts=[]), "history_counts"),
        (one_row(allowed_mask=[[0, 0]]), "allowed_mask"),
        (make_batch(1, bias_start=[0, 3]), "bias_start"),
    ],
)
def test_a_batch_that_does_not_fit_the_logits_is_refused(draw, batch, named):
    with pytest.raises(KernelError, match=named):
        draw(row(1, 2, 3, 4), batch)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), vocab_size=st.sampled_from([1, 4, 31, 33, 200, 1500, 4000]))
def test_native_draws_what_the_twin_draws(seed, vocab_size):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, rng.choice([0.1, 1, 5]), (6, vocab_size)).astype(np.float32)
    if rng.integers(2):
        logits = np.round(logits)  # many ties
    batch = random_batch(rng, 6, vocab_size)
    native, twin = sample(logits, batch), reference_sample(logits, batch)
    assert native.token_ids.tolist() == twin.token_ids.tolist()
    assert native.top_ids.tolist() == twin.top_ids.tolist()
    np.testing.assert_allclose(native.logprobs, twin.logprobs, atol=1e-5)
    np.testing.assert_allclose(native.top_logprobs, twin.top_logprobs, atol=1e-5)


def random_batch(rng: np.random.Generator, num_rows: int, vocab_size: int) -> SampleBatch:
    def lists(most: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [
            rng.choice(vocab_size, rng.integers(0, min(vocab_size, most) + 1), replace=False) for _ in range(num_rows)
        ]
        return np.cumsum([0, *map(len, rows)]).astype(np.int32), np.concatenate(rows).astype(np.int32)

    def pick(*values: float) -> np.ndarray:
        return rng.choice(np.array(values), num_rows)

    history_start, history_ids = lists(20)
    bias_start, bias_ids = lists(5)
    mask = rng.integers(0, 2**32, (num_rows, (vocab_size + 31) // 32)).astype(np.uint32)
    batch = make_batch(
        num_rows,
        temperature=pick(0, 0.3, 1, 1.7, 30),
        top_k=pick(0, 0, 1, 5, 40, 700, 10**6),
        top_p=pick(1, 1, 0.1, 0.9, 0.99),
        min_p=pick(0, 0, 0.02, 0.5, 1),
        typical_p=pick(1, 1, 0.2, 0.9),
        repetition_penalty=pick(1, 1.3, 0.7),
        presence_penalty=pick(0, 0.5),
        frequency_penalty=pick(0, 0.5, -1),
        seed=rng.integers(0, 2**63, num_rows),
        counter=rng.integers(0, 2**40, num_rows),
        num_logprobs=pick(-1, 0, 3, 20),
        history_start=history_start,
        history_counts=rng.integers(0, 3, len(history_ids)),
        bias_start=bias_start,
        bias_values=rng.normal(0, 3, len(bias_ids)),
    )
    batch = replace(batch, history_ids=history_ids, bias_ids=bias_ids)
    return replace(batch, allowed_mask=mask) if rng.integers(2) else batch
