"""Runs token sequences through the reference executor of a tiny model, whole or in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.models.compiler import compile_model
from glm_crush.models.dense_weights import DenseWeights
from tests.models.tiny import tiny_tensors

__all__ = ["batch_of", "reference_executor", "run_whole", "shuffled_tables"]

BLOCK_SIZE = 4
BLOCKS_PER_SEQUENCE = 12  # 48 positions


def reference_executor(
    config: Mapping[str, Any], seed: int = 0, *, sequences: int = 1, **kwargs: Any
) -> ReferenceExecutor:
    """An executor of the tiny model with that configuration, with cache for `sequences` full contexts."""
    tensors = tiny_tensors(config, seed)
    compiled = compile_model(config, tensor_names=tensors.keys())
    weights = DenseWeights.from_tensors(compiled.plan, tensors.__getitem__)
    blocks = sequences * BLOCKS_PER_SEQUENCE
    return ReferenceExecutor(compiled.program, weights, num_blocks=blocks, block_size=BLOCK_SIZE, **kwargs)


def shuffled_tables(sequences: int) -> np.ndarray:
    """Block tables that share out the blocks in no order, int32 `[sequences, 12]`."""
    blocks = np.random.RandomState(3).permutation(sequences * BLOCKS_PER_SEQUENCE)
    return blocks.reshape(sequences, BLOCKS_PER_SEQUENCE).astype(np.int32)


def batch_of(chunks: Sequence[tuple[Sequence[int], int]], tables: np.ndarray) -> ForwardBatch:
    """A step: per sequence its new tokens and how many came before; logits of every row."""
    lengths = [len(tokens) for tokens, _ in chunks]
    positions = [np.arange(done, done + len(tokens)) for tokens, done in chunks]
    return ForwardBatch(
        token_ids=np.concatenate([np.asarray(tokens, np.int32) for tokens, _ in chunks]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        query_start=np.cumsum([0, *lengths]).astype(np.int32),
        context_lens=np.asarray([done + len(tokens) for tokens, done in chunks], np.int32),
        block_tables=tables,
        logit_rows=np.arange(sum(lengths), dtype=np.int32),
    )


def run_whole(executor: ReferenceExecutor, token_ids: Sequence[int]) -> np.ndarray:
    """Logits of every position, float32 `[num_tokens, vocab]`, in one step."""
    return executor.forward(batch_of([(token_ids, 0)], shuffled_tables(1)))
