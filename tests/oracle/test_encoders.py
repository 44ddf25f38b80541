"""Live comparison of encoders with transformers (`make oracle`): the committed rows against it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.encoder_cases import ENCODER_CASES, EncoderCase, encoder_path
from tests.oracle.transformers_encoder import transformers_rows

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", ENCODER_CASES, ids=lambda case: case.name)
def test_golden_rows_equal_those_of_transformers(case: EncoderCase) -> None:
    np.testing.assert_allclose(np.load(encoder_path(case)), transformers_rows(case), atol=2e-5, rtol=0)
