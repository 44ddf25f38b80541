"""The reference executor: operations, paged cache and steps on programs small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels.program import (
    AddNorm,
    Attention,
    CacheLayer,
    CopyHeads,
    Embed,
    ForwardBatch,
    HeadLinear,
    Linear,
    Logits,
    Norm,
    Op,
    Program,
    RmsNorm,
    View,
)
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.kernels.reference_math import DenseWeight
from glm_crush.models.dense_weights import DenseWeights

STREAM = View(0, 0, 2)
PLAIN = Norm("ones", 0.0)


def executor(
    ops: tuple[Op, ...], linears: dict[str, object], *, caches: int = 0, **kwargs: object
) -> ReferenceExecutor:
    program = Program(
        hidden_size=2,
        vocab_size=2,
        max_position=16,
        buffers=(2, 8),
        ropes=(),
        caches=(CacheLayer(1, 2, 2),) * caches,
        ops=ops,
    )
    weights = {name: DenseWeight(np.asarray(values, np.float32)) for name, values in linears.items()}
    vectors = {"ones": np.ones(2, np.float32), "bias": np.asarray([10, 20], np.float32)}
    return ReferenceExecutor(program, DenseWeights(weights, vectors), num_blocks=4, block_size=2, **kwargs)  # type: ignore[arg-type]


def batch(*sequences: tuple[list[int], int, list[int]]) -> ForwardBatch:
    """Sequences of (tokens, tokens already cached, block table), logits of the last token of each."""
    lengths = [len(tokens) for tokens, _, _ in sequences]
    ends = np.cumsum(lengths)
    return ForwardBatch(
        token_ids=np.concatenate([np.asarray(tokens, np.int32) for tokens, _, _ in sequences]),
        positions=np.concatenate([np.arange(done, done + len(t), dtype=np.int32) for t, done, _ in sequences]),
        query_start=np.asarray([0, *ends], np.int32),
        context_lens=np.asarray([done + len(t) for t, done, _ in sequences], np.int32),
        block_tables=np.asarray([table for _, _, table in sequences], np.int32),
        logit_rows=np.asarray(ends - 1, np.int32),
    )


# The root mean square of (1, -1) or (7, 7) is its size, so logits are the signs of the residual stream.
TABLE = {"table": [[[1, 1], [3, -3], [0, 2]]]}
HEAD = Logits(STREAM, PLAIN, "identity", 2)
IDENTITY = {"identity": [[[1, 0], [0, 1]]]}


def test_logits_are_the_normed_embedding_times_the_head() -> None:
    run = executor((Embed("table", STREAM), HEAD), TABLE | IDENTITY)
    np.testing.assert_allclose(run.forward(batch(([0, 1], 0, [0]))), [[1, -1]], rtol=1e-6)


def test_a_linear_adds_its_bias_and_accumulates_on_the_residual() -> None:
    swap = {"swap": [[[0, 1], [1, 0]]]}
    ops = (Embed("table", STREAM), Linear(STREAM, "swap", STREAM, bias="bias", accumulate=True), HEAD)
    logits = executor(ops, TABLE | IDENTITY | swap).forward(batch(([1], 0, [0])))
    # (3, -3) + (-3, 3) + (10, 20) = (10, 20), root mean square sqrt(250)
    np.testing.assert_allclose(logits, [[10 / 250**0.5, 20 / 250**0.5]], rtol=1e-6)


def test_a_softcap_bounds_the_logits() -> None:
    head = Logits(STREAM, PLAIN, "identity", 2, scale=50.0, softcap=2.0)
    logits = executor((Embed("table", STREAM), head), TABLE | IDENTITY).forward(batch(([1], 0, [0])))
    np.testing.assert_allclose(logits, [[2, -2]], rtol=1e-6)


def test_norm_store_and_norm_add() -> None:
    copy = View(1, 0, 2)
    ops = (Embed("table", STREAM), RmsNorm(STREAM, PLAIN, copy), AddNorm(STREAM, PLAIN, copy), HEAD)
    run = executor((*ops[:-1], Logits(copy, PLAIN, "double", 2)), TABLE | {"double": [[[2, 0], [0, 2]]]})
    np.testing.assert_allclose(run.forward(batch(([1], 0, [0]))), [[2, -2]], rtol=1e-6)


def test_head_matrices_and_copies_keep_to_their_strides() -> None:
    heads, target = View(0, 0, 2), View(1, 0, 8)
    per_head = {"per_head": [[[10], [20]], [[30], [40]]]}  # two heads, one column to two rows
    ops = (
        Embed("table", STREAM),
        HeadLinear(heads, "per_head", target, num_heads=2, input_stride=1, out_stride=4),
        CopyHeads(heads, View(1, 2, 6), num_heads=2, input_stride=0, out_stride=4, width=2),
        Logits(View(1, 4, 2), PLAIN, "identity", 2),
    )
    run = executor(ops, TABLE | IDENTITY | per_head)
    logits = run.forward(batch(([1], 0, [0])))
    # Head 1 maps -3 to (-90, -120), whose root mean square is 106.07.
    np.testing.assert_allclose(logits, [[-90 / 11250**0.5, -120 / 11250**0.5]], rtol=1e-6)


ATTEND = (
    Embed("table", STREAM),
    Attention(STREAM, STREAM, STREAM, View(1, 0, 2), cache=0, num_heads=1, scale=0.0, rope=None),
    Logits(View(1, 0, 2), PLAIN, "identity", 2),
)


def test_attention_averages_over_the_cached_context_in_any_block_order() -> None:
    run = executor(ATTEND, TABLE | IDENTITY, caches=1)
    run.forward(batch(([0, 0, 1], 0, [3, 1])))
    logits = run.forward(batch(([2], 3, [3, 1])))
    # Mean of (1, 1), (1, 1), (3, -3), (0, 2) is (1.25, 0.25).
    np.testing.assert_allclose(logits, [[1.25 / 0.8125**0.5, 0.25 / 0.8125**0.5]], rtol=1e-6)


def test_a_window_hides_all_but_the_latest_tokens() -> None:
    windowed = (ATTEND[0], Attention(**{**vars(ATTEND[1]), "window": 2}), ATTEND[2])
    run = executor(windowed, TABLE | IDENTITY, caches=1)
    logits = run.forward(batch(([1, 1, 0, 0], 0, [0, 1])))
    np.testing.assert_allclose(logits, [[1, 1]], rtol=1e-6)


def test_sequences_with_tables_of_their_own_share_the_cache_arrays() -> None:
    run = executor(ATTEND, TABLE | IDENTITY, caches=1)
    logits = run.forward(batch(([0, 0], 0, [2, -1]), ([1], 0, [0, -1]), ([2, 2, 2], 0, [3, 1])))
    np.testing.assert_allclose(logits, [[1, 1], [1, -1], [0, 2**0.5]], rtol=1e-6)


def test_a_bfloat16_cache_rounds_what_it_stores() -> None:
    table = {"table": [[[1 + 1 / 256, 1]]]}
    op = Attention(STREAM, STREAM, STREAM, STREAM, cache=0, num_heads=1, scale=0.0, rope=None)
    for kv_dtype, ratio in (("f32", 1 + 1 / 256), ("bf16", 1.0)):
        run = executor((Embed("table", STREAM), op, HEAD), table | IDENTITY, caches=1, kv_dtype=kv_dtype)
        logits = run.forward(batch(([0], 0, [0])))[0]
        assert logits[0] / logits[1] == pytest.approx(ratio, rel=1e-6)


def test_a_block_table_that_ends_too_early_is_refused() -> None:
    run = executor(ATTEND, TABLE | IDENTITY, caches=1)
    with pytest.raises(KernelError, match=r"block_tables: \[0, -1\] does not cover position 2"):
        run.forward(batch(([0, 0, 0], 0, [0, -1])))


def test_an_unknown_cache_type_is_refused() -> None:
    with pytest.raises(KernelError, match="kv_dtype is 'int3'; choose bf16, int8, f32"):
        executor(ATTEND, TABLE | IDENTITY, caches=1, kv_dtype="int3")
