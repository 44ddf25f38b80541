"""Every family computes the logits that transformers computes, however the tokens are cut into steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.cases import CASES, GoldenCase, golden_logits, golden_token_ids
from tests.models.reference_run import batch_of, reference_executor, run_whole, shuffled_tables
from tests.models.tiny import tiny_config

TOLERANCE = 1e-4
ONE_PER_FAMILY = tuple({case.family: case for case in reversed(CASES)}.values())

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_family = pytest.mark.parametrize("case", ONE_PER_FAMILY, ids=lambda case: case.name)


@pytest.mark.requirement("M1")
@every_case
def test_logits_equal_those_of_transformers_to_the_end_of_the_context(case: GoldenCase) -> None:
    executor = reference_executor(tiny_config(case.family, **case.overrides), case.seed)
    logits = run_whole(executor, golden_token_ids(case))
    np.testing.assert_allclose(logits, golden_logits(case), atol=TOLERANCE, rtol=0)


@every_family
@pytest.mark.parametrize("chunk", [1, 5, 17])
def test_chunked_prefill_equals_the_whole(case: GoldenCase, chunk: int) -> None:
    executor = reference_executor(tiny_config(case.family, **case.overrides), case.seed)
    token_ids, table = golden_token_ids(case), shuffled_tables(1)
    rows = [
        executor.forward(batch_of([(token_ids[start : start + chunk], start)], table))
        for start in range(0, len(token_ids), chunk)
    ]
    np.testing.assert_allclose(np.concatenate(rows), golden_logits(case), atol=TOLERANCE, rtol=0)


@every_family
def test_sequences_of_a_batch_do_not_see_each_other(case: GoldenCase) -> None:
    executor = reference_executor(tiny_config(case.family, **case.overrides), case.seed, sequences=3)
    token_ids, golden, tables = golden_token_ids(case), golden_logits(case), shuffled_tables(3)
    # Three copies of the sequence at different depths: decode, prefill in the middle, prefill from the start.
    executor.forward(batch_of([(token_ids[:40], 0), (token_ids[:9], 0), (token_ids[:1], 0)], tables))
    logits = executor.forward(batch_of([(token_ids[40:41], 40), (token_ids[9:20], 9), (token_ids[1:48], 1)], tables))
    expected = np.concatenate([golden[40:41], golden[9:20], golden[1:48]])
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


def test_only_the_wanted_rows_have_logits() -> None:
    case = CASES[0]
    executor = reference_executor(tiny_config(case.family, **case.overrides), case.seed)
    batch = batch_of([(golden_token_ids(case)[:7], 0)], shuffled_tables(1))
    last = executor.forward(batch)[[6]]
    chosen = type(batch)(**{**vars(batch), "logit_rows": np.asarray([6], np.int32)})
    again = reference_executor(tiny_config(case.family, **case.overrides), case.seed).forward(chosen)
    assert again.shape == (1, 269)
    np.testing.assert_allclose(again, last, atol=1e-5, rtol=0)
