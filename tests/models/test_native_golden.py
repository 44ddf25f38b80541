"""The native executor computes the golden logits of every family, in float32 and on every instruction set here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_crush.kernels.native import Executor
from glm_crush.models.loader import load_model
from tests.golden.cases import CASES, GoldenCase, golden_logits, golden_token_ids
from tests.models.reference_run import batch_of
from tests.models.tiny import tiny_checkpoint

BLOCK_TABLE = np.asarray([[2, 0, 1]], np.int32)  # three blocks of 16 positions, in no order


@pytest.mark.requirement("M1")
@pytest.mark.parametrize("kernels", ["generic", None], ids=["generic", "best"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_native_logits_equal_those_of_transformers(case: GoldenCase, kernels: str | None, tmp_path: Path) -> None:
    path = tiny_checkpoint(case.family, tmp_path, case.seed, **case.overrides)
    model = load_model(path, cache_dir=tmp_path, weight_format="f32")
    executor = Executor(
        model.compiled.program, model.packed, num_threads=2, num_blocks=3, kv_dtype="f32", kernels=kernels
    )
    token_ids = golden_token_ids(case)
    whole = executor.forward(batch_of([(token_ids, 0)], BLOCK_TABLE)).copy()
    np.testing.assert_allclose(whole, golden_logits(case), atol=1e-4, rtol=0)
    again = [
        executor.forward(batch_of([(token_ids[start:stop], start)], BLOCK_TABLE)).copy()
        for start, stop in ((0, 13), (13, 14), (14, 48))
    ]
    np.testing.assert_array_equal(np.concatenate(again), whole)
