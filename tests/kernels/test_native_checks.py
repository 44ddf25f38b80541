"""Batches that contradict themselves: refused before anything is read beyond the end of an array."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import ForwardBatch
from glm_crush.models.loader import load_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E1")


def test_a_sequence_that_reaches_beyond_the_tokens_is_refused_by_its_end(tmp_path):
    loaded = load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path / "packed")
    executor = Executor(loaded.compiled.program, loaded.packed, num_threads=1, num_blocks=4, max_tokens=64)
    batch = ForwardBatch(
        token_ids=np.arange(5, dtype=np.int32),
        positions=np.arange(5, dtype=np.int32),
        query_start=np.array([0, 40, 5], np.int32),
        context_lens=np.array([40, 5], np.int32),
        block_tables=np.zeros((2, 3), np.int32),
        logit_rows=np.array([4], np.int32),
    )
    with pytest.raises(KernelError, match=r"query_start\[1\] is 40; the step has 5 tokens"):
        executor.forward(batch)
