"""Live comparison with transformers (`make oracle`): the committed logits and the reference executor against it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.cases import CASES, GoldenCase, golden_logits, golden_token_ids
from tests.models.reference_run import reference_executor, run_whole
from tests.models.tiny import tiny_config
from tests.oracle.transformers_logits import transformers_logits

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_and_reference_logits_equal_those_of_transformers(case: GoldenCase) -> None:
    live = transformers_logits(case)
    np.testing.assert_allclose(golden_logits(case), live, atol=2e-5, rtol=0)
    executor = reference_executor(tiny_config(case.family, **case.overrides), case.seed)
    np.testing.assert_allclose(run_whole(executor, golden_token_ids(case)), live, atol=1e-4, rtol=0)
