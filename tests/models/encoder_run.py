"""Batches of whole texts, and executors of tiny encoders to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.models.compiler import CompiledModel, compile_model
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.sentence import SentenceConfig
from tests.models.tiny_encoder import encoder_tensors

__all__ = ["reference_encoder", "whole_texts"]

Text = tuple[Sequence[int], Sequence[int]]


def whole_texts(texts: Sequence[Text], rows: str) -> ForwardBatch:
    """A step of (token ids, token types) texts, each from its start; `rows` as in `models.heads.Readout`."""
    lengths = [len(ids) for ids, _ in texts]
    ends = np.cumsum([0, *lengths])
    blocks = [-(-length // 16) for length in lengths]
    tables = np.full((len(texts), max(blocks)), -1, np.int32)
    for index, (row, count) in enumerate(zip(tables, blocks, strict=True)):
        row[:count] = np.arange(count) + sum(blocks[:index])
    wanted = {"every": np.arange(ends[-1]), "last": ends[1:] - 1}.get(rows, ends[:-1])
    return ForwardBatch(
        token_ids=np.concatenate([np.asarray(ids, np.int32) for ids, _ in texts]),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_start=ends.astype(np.int32),
        context_lens=np.asarray(lengths, np.int32),
        block_tables=tables,
        logit_rows=wanted.astype(np.int32),
        token_types=np.concatenate([np.asarray(types, np.int32) for _, types in texts]),
    )


def reference_encoder(
    config: Mapping[str, Any], seed: int = 0, *, sentence: SentenceConfig | None = None
) -> tuple[CompiledModel, ReferenceExecutor]:
    """The tiny encoder of that configuration as plain numbers."""
    tensors = encoder_tensors(config, seed)
    compiled = compile_model(config, tensor_names=tensors.keys(), sentence=sentence)
    weights = DenseWeights.from_tensors(compiled.plan, tensors.__getitem__)
    return compiled, ReferenceExecutor(compiled.program, weights, num_blocks=16)
