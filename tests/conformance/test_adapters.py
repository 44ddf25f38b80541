"""LoRA adapters in the native executor: against the reference, and each row as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels.program import AdapterPart, ForwardBatch, Linear, Program
from glm_crush.kernels.reference import ReferenceExecutor
from tests.conformance.test_executor import (
    NUM_BLOCKS,
    TOLERANCE,
    Weights,
    attention_program,
    native,
    step,
    tokens,
    variants,
)

HEADS = (4, 2, 16)


def parts_of(program: Program, weights: Weights, seed: int, rank: int, *, every: int = 1) -> list[AdapterPart]:
    """A random adapter of every Linear, or of every second one."""
    random = np.random.default_rng(seed)
    linears = [(i, weights.tensors[op.weight]) for i, op in enumerate(program.ops) if isinstance(op, Linear)]
    return [
        AdapterPart(
            index,
            random.normal(0, 0.2, (rank, tensor.cols)).astype(np.float32),
            random.normal(0, 0.2, (tensor.rows, rank)).astype(np.float32),
        )
        for index, tensor in linears[::every]
    ]


def with_adapters(batch: ForwardBatch, *ids: int) -> ForwardBatch:
    return replace(batch, adapter_ids=np.array(ids, np.int32))


@variants
@pytest.mark.parametrize("fmt", ["q4", "q8", "bf16", "f32"])
def test_a_mixed_batch_is_what_the_reference_computes(variant: str, fmt: str) -> None:
    weights = Weights(fmt)
    program = attention_program(weights, HEADS)
    executor = native(program, weights, variant)
    reference = ReferenceExecutor(program, weights.dense(), num_blocks=NUM_BLOCKS, quantize_activations=True)
    for slot, (rank, every) in enumerate([(3, 1), (20, 2)]):
        parts = parts_of(program, weights, slot, rank, every=every)
        executor.load_adapter(slot, parts)
        reference.load_adapter(slot, parts)
    sequences = [(tokens(9, 1), 0, [0]), (tokens(17, 2), 0, [1, 2]), (tokens(5, 3), 0, [3]), (tokens(1, 4), 0, [4])]
    batch = with_adapters(step(sequences), 1, 0, -1, 0)
    wanted = reference.forward(batch)
    plain = reference.forward(step(sequences))
    assert np.abs(wanted[:9] - plain[:9]).max() > 0.1 * np.abs(plain).max()  # it does something
    np.testing.assert_allclose(executor.forward(batch), wanted, rtol=0, atol=TOLERANCE["f32"] * np.abs(wanted).max())


@variants
@pytest.mark.parametrize("fmt", ["q4", "bf16"])
def test_rows_do_not_depend_on_their_batch(variant: str, fmt: str) -> None:
    weights = Weights(fmt)
    program = attention_program(weights, HEADS)
    executor = native(program, weights, variant, num_threads=3)
    plain = native(program, weights, variant)
    executor.load_adapter(0, parts_of(program, weights, 0, 3))
    executor.load_adapter(1, parts_of(program, weights, 1, 20, every=2))
    prompts = [tokens(18, 1), tokens(30, 2), tokens(7, 3), tokens(12, 4)]
    tables, ids = [[0, 1], [2, 3], [4], [5]], [1, 0, -1, 1]
    sequences = [(prompt, 0, table) for prompt, table in zip(prompts, tables, strict=True)]
    together = np.split(executor.forward(with_adapters(step(sequences), *ids)), np.cumsum([18, 30, 7]))
    for sequence, adapter, wanted in zip(sequences, ids, together, strict=True):
        prompt, _, table = sequence
        alone = executor.forward(with_adapters(step([sequence]), adapter))
        np.testing.assert_array_equal(alone.view(np.uint32), wanted.view(np.uint32))
        chunks = [
            executor.forward(with_adapters(step([(prompt[begin:end], begin, table)]), adapter))
            for begin, end in ((0, 1), (1, 6), (6, len(prompt)))
        ]
        np.testing.assert_array_equal(np.concatenate(chunks).view(np.uint32), wanted.view(np.uint32))
    unchanged = plain.forward(step([sequences[2]]))
    np.testing.assert_array_equal(unchanged.view(np.uint32), together[2].view(np.uint32))


@variants
def test_only_wanted_rows_go_on_after_the_last_attention(variant: str) -> None:
    weights = Weights("q4")
    program = attention_program(weights, HEADS)
    executor = native(program, weights, variant)
    executor.load_adapter(0, parts_of(program, weights, 0, 4))
    batch = with_adapters(step([(tokens(9, 1), 0, [0]), (tokens(6, 2), 0, [1]), (tokens(8, 3), 0, [2])]), 0, -1, 0)
    wanted = executor.forward(batch)
    rows = np.array([8, 10, 14, 22], np.int32)
    np.testing.assert_array_equal(executor.forward(replace(batch, logit_rows=rows)), wanted[rows])


def test_an_adapter_equals_weights_with_it_merged_in() -> None:
    weights, merged = Weights("f32"), Weights("f32")
    program = attention_program(weights, HEADS)
    attention_program(merged, HEADS)
    parts = parts_of(program, weights, 5, 4)
    dense = merged.dense()
    for part in parts:
        op = program.ops[part.op]
        assert isinstance(op, Linear)
        dense.linear(op.weight).values[0] += part.b @ part.a
    executor = native(program, weights, "generic")
    executor.load_adapter(0, parts)
    batch = step([(tokens(20, 1), 0, [0, 1])])
    wanted = ReferenceExecutor(program, dense, num_blocks=NUM_BLOCKS).forward(batch)
    np.testing.assert_allclose(executor.forward(with_adapters(batch, 0)), wanted, atol=2e-5 * np.abs(wanted).max())


def test_what_does_not_fit_is_refused() -> None:
    weights = Weights("q4")
    program = attention_program(weights, HEADS)
    executor = native(program, weights, "generic")
    good = parts_of(program, weights, 0, 4)
    with pytest.raises(KernelError, match="operation 0 is no Linear"):
        executor.load_adapter(0, [replace(good[0], op=0)])
    with pytest.raises(KernelError, match="rank 4 is for"):
        executor.load_adapter(0, [replace(good[0], b=good[0].b[1:].copy())])
    with pytest.raises(KernelError, match="differ in rank"):
        executor.load_adapter(0, [replace(good[0], a=good[0].a[1:].copy())])
    batch = step([(tokens(3), 0, [0])])
    with pytest.raises(KernelError, match="slot 0, where no adapter"):
        executor.forward(with_adapters(batch, 0))
    executor.load_adapter(0, good)
    executor.forward(with_adapters(batch, 0))
    with pytest.raises(KernelError, match="one entry per sequence"):
        executor.forward(with_adapters(batch, 0, 0))
    executor.unload_adapter(0)
    with pytest.raises(KernelError, match="no adapter in slot 0"):
        executor.unload_adapter(0)
