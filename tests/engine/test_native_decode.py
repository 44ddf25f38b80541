"""The native `decode`: several steps in one call are the same steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.sampling import SampleBatch
from glm_crush.models.loader import load_model
from tests.engine.scripted import decode_step_by_step
from tests.models.tiny import tiny_checkpoint


def make_executor(folder: Path) -> Executor:
    loaded = load_model(tiny_checkpoint("llama", folder), cache_dir=folder / "packed")
    return Executor(loaded.compiled.program, loaded.packed, num_threads=2, num_blocks=8, max_tokens=16)


def make_batch(*tokens: int) -> ForwardBatch:
    """One token per sequence, each at the start of its own block."""
    count = len(tokens)
    return ForwardBatch(
        token_ids=np.array(tokens, np.int32),
        positions=np.zeros(count, np.int32),
        query_start=np.arange(count + 1, dtype=np.int32),
        context_lens=np.ones(count, np.int32),
        block_tables=np.arange(count, dtype=np.int32).reshape(count, 1),
        logit_rows=np.arange(count, dtype=np.int32),
    )


def make_samples(count: int, **overrides: object) -> SampleBatch:
    return replace(
        SampleBatch.greedy(count),
        temperature=np.full(count, 0.9, np.float32),
        seed=np.arange(count, dtype=np.uint64),
        **overrides,
    )


@pytest.mark.requirement("E8")
def test_several_steps_in_one_call_draw_the_same_tokens_as_one_by_one(tmp_path):
    executor = make_executor(tmp_path)
    expected = decode_step_by_step(executor, make_batch(3, 5, 7), make_samples(3), 9)
    assert executor.decode(make_batch(3, 5, 7), make_samples(3), 9).tolist() == expected.tolist()


def test_a_sequence_that_can_draw_nothing_yields_minus_one_and_the_others_go_on(tmp_path):
    executor = make_executor(tmp_path)
    words = (executor._vocab_size + 31) // 32
    mask = np.full((2, words), 0xFFFFFFFF, np.uint32)
    mask[0] = 0
    drawn = executor.decode(make_batch(3, 5), make_samples(2, allowed_mask=mask), 4)
    alone = executor.decode(make_batch(3, 5), make_samples(2), 4)
    assert drawn[:, 0].tolist() == [-1] * 4
    assert drawn[:, 1].tolist() == alone[:, 1].tolist()


def test_what_one_call_cannot_do_is_refused(tmp_path):
    executor = make_executor(tmp_path)
    with pytest.raises(KernelError, match="without penalties and logprobs"):
        executor.decode(make_batch(3), make_samples(1, num_logprobs=np.zeros(1, np.int32)), 2)
    with pytest.raises(KernelError, match="num_steps is 0"):
        executor.decode(make_batch(3), make_samples(1), 0)
    with pytest.raises(KernelError, match="block_tables has 1 columns; 2 are needed"):
        executor.decode(make_batch(3), make_samples(1), 17)
