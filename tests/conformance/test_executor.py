"""The native executor against the reference executor on programs made of every operation, with every variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from glm_crush.kernels._native import kernels
from glm_crush.kernels.native import Executor
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
    MixtureOfExperts,
    Norm,
    Program,
    RmsNorm,
    Rope,
    View,
)
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.kernels.reference_math import DenseWeight
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.weights.layout import unpack
from tests.conformance.packed_weights import packed_weight

VARIANTS = kernels.available()
variants = pytest.mark.parametrize("variant", VARIANTS)
HIDDEN, VOCAB, NUM_BLOCKS = 96, 50, 12
TOLERANCE = {"f32": 2e-5, "bf16": 1e-2, "int8": 2e-2}  # of the largest logit: queries are rounded, the reference's not


@dataclass(frozen=True)
class Tensor:
    """A packed weight as `weights.packed_file` gives it."""

    format: str
    rows: int
    cols: int
    experts: int
    data: np.ndarray


class Weights:
    """Random packed weights, made when a program asks for their shape."""

    def __init__(self, fmt: str) -> None:
        self.format = fmt
        self.tensors: dict[str, Tensor] = {}
        self.vectors: dict[str, np.ndarray] = {}

    def linear(self, name: str, rows: int, cols: int, experts: int = 1) -> str:
        parts = [packed_weight(self.format, rows, cols, 31 * len(self.tensors) + e, 0.1) for e in range(experts)]
        aligned = aligned_bytes(np.concatenate(parts))
        self.tensors[name] = Tensor(self.format, rows, cols, experts, aligned)
        return name

    def vector(self, name: str) -> np.ndarray:
        return self.vectors[name]

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def norm(self, name: str, size: int) -> Norm:
        self.vectors[name] = np.random.default_rng(size).uniform(0.5, 1.5, size).astype(np.float32)
        return Norm(name, 1e-5)

    def random_vector(self, name: str, size: int, scale: float = 0.5) -> str:
        self.vectors[name] = np.random.default_rng(len(name)).normal(0, scale, size).astype(np.float32)
        return name

    def dense(self) -> DenseWeights:
        values = {
            name: unpack(t.data, t.format, t.rows, t.cols, t.experts).reshape(t.experts, t.rows, t.cols)
            for name, t in self.tensors.items()
        }
        return DenseWeights({name: DenseWeight(v, self.format) for name, v in values.items()}, self.vectors)


def aligned_bytes(data: np.ndarray) -> np.ndarray:
    """The same bytes at an address that is a multiple of 64, as a memory-mapped packed file has them."""
    room = np.empty(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = data
    return room[start : start + len(data)]


def logits(view: View, weights: Weights, **options: float) -> Logits:
    return Logits(view, weights.norm("final_norm", HIDDEN), weights.linear("head", VOCAB, HIDDEN), VOCAB, **options)


def attention_program(
    weights: Weights, heads: tuple[int, int, int], value_dim: int | None = None, window: int | None = None
) -> Program:
    """Embed, one attention block with biases, head norms and rotation, a gated feed-forward, logits with a soft cap."""
    num_heads, num_kv_heads, head_dim = heads
    value_dim = value_dim or head_dim
    query, key, value = num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * value_dim
    width = query + key + value
    stream, qkv = View(0, 0, HIDDEN), View(1, 0, width)
    mixed, inner = View(2, 0, num_heads * value_dim), View(3, 0, 40)
    ops = (
        Embed(weights.linear("embed", VOCAB, HIDDEN), stream, 1.5),
        Linear(
            stream,
            weights.linear("qkv", width, HIDDEN),
            qkv,
            norm=weights.norm("input_norm", HIDDEN),
            bias=weights.random_vector("qkv_bias", width),
        ),
        Attention(
            View(1, 0, query),
            View(1, query, key),
            View(1, query + key, value),
            mixed,
            cache=0,
            num_heads=num_heads,
            scale=head_dim**-0.5,
            rope=0,
            query_norm=weights.norm("query_norm", head_dim),
            key_norm=weights.norm("key_norm", head_dim),
            window=window,
        ),
        Linear(mixed, weights.linear("out", HIDDEN, mixed.width), stream, accumulate=True),
        Linear(
            stream,
            weights.linear("gate_up", 96, HIDDEN),
            inner,
            norm=weights.norm("middle_norm", HIDDEN),
            activation="silu_gate",
        ),
        Linear(inner, weights.linear("down", HIDDEN, 40), View(4, 0, HIDDEN)),
        AddNorm(View(4, 0, HIDDEN), weights.norm("after_norm", HIDDEN), stream),
        Logits(
            stream, weights.norm("final_norm", HIDDEN), weights.linear("head", VOCAB, HIDDEN), VOCAB, 0.5, softcap=20.0
        ),
    )
    rope = Rope(tuple(float(np.float32(100.0 ** (-i / 4))) for i in range(min(4, head_dim // 2))), interleaved=False)
    caches = (CacheLayer(num_kv_heads, head_dim, value_dim),)
    return Program(HIDDEN, VOCAB, 400, (HIDDEN, width, mixed.width, 40, HIDDEN), (rope,), caches, ops)


def experts_program(weights: Weights, *, scoring: str, n_group: int = 1, activation: str = "silu_gate") -> Program:
    """Embed, a projection per head, a copy, experts with a router bias, logits."""
    stream, heads = View(0, 0, HIDDEN), View(1, 0, 80)
    experts = MixtureOfExperts(
        stream,
        weights.norm("expert_norm", HIDDEN),
        router=weights.random_vector("router", 8 * HIDDEN, 0.2),
        router_bias=weights.random_vector("router_bias", 8),
        gate_up=weights.linear("experts_gate_up", 64, HIDDEN, 8),
        down=weights.linear("experts_down", HIDDEN, 24, 8),
        out=stream,
        num_experts=8,
        top_k=3,
        intermediate_size=24,
        scoring=scoring,
        normalize=True,
        scale=1.5,
        n_group=n_group,
        topk_group=max(1, n_group // 2),
        activation=activation,
    )
    ops = (
        Embed(weights.linear("embed", VOCAB, HIDDEN), stream),
        HeadLinear(stream, weights.linear("heads", 20, 24, 4), heads, num_heads=4, input_stride=24, out_stride=20),
        CopyHeads(View(1, 0, 20), View(0, 4, 20), num_heads=3, input_stride=20, out_stride=30, width=20),
        experts,
        RmsNorm(stream, weights.norm("middle_norm", HIDDEN), View(2, 0, HIDDEN)),
        logits(View(2, 0, HIDDEN), weights),
    )
    return Program(HIDDEN, VOCAB, 400, (HIDDEN, 80, HIDDEN), (), (), ops)


def step(sequences: Sequence[tuple[Sequence[int], int, Sequence[int]]]) -> ForwardBatch:
    """One step of (tokens, tokens before, block table) sequences with the logits of every token."""
    ends = np.cumsum([0] + [len(tokens) for tokens, _, _ in sequences])
    tables = np.full((len(sequences), max(len(table) for _, _, table in sequences)), -1, np.int32)
    for row, (_, _, table) in zip(tables, sequences, strict=True):
        row[: len(table)] = table
    return ForwardBatch(
        token_ids=np.concatenate([np.asarray(tokens, np.int32) for tokens, _, _ in sequences]),
        positions=np.concatenate([np.arange(before, before + len(t), dtype=np.int32) for t, before, _ in sequences]),
        query_start=ends.astype(np.int32),
        context_lens=np.array([before + len(tokens) for tokens, before, _ in sequences], np.int32),
        block_tables=tables,
        logit_rows=np.arange(ends[-1], dtype=np.int32),
    )


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def native(program: Program, weights: Weights, variant: str, num_threads: int = 2, kv_dtype: str = "f32") -> Executor:
    return Executor(
        program, weights, num_threads=num_threads, num_blocks=NUM_BLOCKS, kv_dtype=kv_dtype, kernels=variant
    )


def assert_same_logits(program: Program, weights: Weights, variant: str, kv_dtype: str, tolerance: float) -> None:
    """Two sequences, one of them in three chunks, against the reference executor."""
    executor = native(program, weights, variant, kv_dtype=kv_dtype)
    reference = ReferenceExecutor(
        program, weights.dense(), num_blocks=NUM_BLOCKS, kv_dtype=kv_dtype, quantize_activations=True
    )
    first, second = tokens(37, 1), tokens(20, 2)
    for batch in (
        step([(first[:17], 0, [5, 2, 9]), (second[:19], 0, [7, 1])]),
        step([(first[17:18], 17, [5, 2, 9]), (second[19:], 19, [7, 1])]),
        step([(first[18:], 18, [5, 2, 9])]),
    ):
        wanted = reference.forward(batch)
        np.testing.assert_allclose(executor.forward(batch), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@variants
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize(
    ("heads", "window"),
    [
        ((2, 2, 32), None),
        ((6, 2, 64), None),
        ((4, 1, 80), None),
        ((12, 1, 32), None),
        ((12, 1, 128), 16),
        ((40, 1, 16), None),
        ((4, 2, 64), 5),
    ],
)
def test_attention_layers_match_the_reference(variant, kv_dtype, heads, window):
    """1, 3, 4, 12 and 40 query heads for one key head; windows shorter and longer than a cache block."""
    weights = Weights("f32")
    program = attention_program(weights, heads, window=window)
    assert_same_logits(program, weights, variant, kv_dtype, TOLERANCE[kv_dtype])


@variants
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
def test_latent_attention_with_a_wide_key_and_a_narrower_value_matches_the_reference(variant, kv_dtype):
    weights = Weights("f32")
    program = attention_program(weights, (4, 1, 576), value_dim=512)
    assert_same_logits(program, weights, variant, kv_dtype, TOLERANCE[kv_dtype])


@variants
@pytest.mark.parametrize("fmt", ["q4", "q4a", "q8g", "q8", "bf16"])
def test_every_weight_format_matches_the_reference(variant, fmt):
    """Activations may fall on the other side of a rounding step, so this is coarser than float32."""
    weights = Weights(fmt)
    program = attention_program(weights, (6, 2, 32))
    assert_same_logits(program, weights, variant, "f32", 2e-2)


@variants
@pytest.mark.parametrize("fmt", ["f32", "q4", "q8", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {"scoring": "softmax"},
        {"scoring": "sigmoid", "n_group": 4},
        {"scoring": "sigmoid", "activation": "gelu_gate"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_experts_match_the_reference(variant, fmt, options):
    weights = Weights(fmt)
    assert_same_logits(experts_program(weights, **options), weights, variant, "f32", 2e-5 if fmt == "f32" else 2e-2)


@variants
@pytest.mark.parametrize(
    ("fmt", "kv_dtype"),
    [(fmt, "f32") for fmt in ("q4", "q4a", "q8g", "q8", "bf16", "f32")] + [("q4", "bf16"), ("q4", "int8")],
)
@pytest.mark.parametrize("kind", ["attention", "experts"])
def test_logits_are_bit_equal_alone_batched_chunked_and_with_any_number_of_threads(variant, fmt, kv_dtype, kind):
    weights = Weights(fmt)
    if kind == "attention":
        program = attention_program(weights, (6, 2, 32), window=40)
    else:
        program = experts_program(weights, scoring="sigmoid")
    prompt, other, table = tokens(50, 3), tokens(33, 4), [4, 8, 0, 6]
    whole = native(program, weights, variant, 1, kv_dtype).forward(step([(prompt, 0, table)]))
    for num_threads in (2, 3):
        executor = native(program, weights, variant, num_threads, kv_dtype)
        batched = executor.forward(step([(other, 0, [1, 2, 3]), (prompt, 0, table)]))
        np.testing.assert_array_equal(batched[33:], whole)
        parts = [(0, 1), (1, 18), (18, 32), (32, 33), (33, 50)]
        chunks = [executor.forward(step([(prompt[a:b], a, table)])) for a, b in parts]
        np.testing.assert_array_equal(np.concatenate(chunks), whole)


@variants
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
def test_long_contexts_match_the_reference_however_the_keys_are_shared_out(variant, kv_dtype):
    """301 tokens make two chunks of keys: one thread takes them in turn, three share them, bit for bit the same."""
    weights = Weights("f32")
    program = attention_program(weights, (4, 1, 32))
    prompt, table = tokens(301, 5), list(range(18, -1, -1))
    results = []
    for num_threads, parts in ((1, [301]), (2, [256, 301]), (3, [100, 300, 301])):
        executor = Executor(
            program, weights, num_threads=num_threads, num_blocks=19, kv_dtype=kv_dtype, kernels=variant
        )
        for begin, end in zip([0, *parts], parts, strict=False):
            logits = executor.forward(step([(prompt[begin:end], begin, table)]))
        results.append(logits)
    whole, two_steps, three_steps = results
    np.testing.assert_array_equal(two_steps, whole[256:])
    np.testing.assert_array_equal(three_steps, whole[300:])
    reference = ReferenceExecutor(program, weights.dense(), num_blocks=19, kv_dtype=kv_dtype)
    wanted = reference.forward(step([(prompt, 0, table)]))
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=TOLERANCE[kv_dtype] * np.abs(wanted).max())


def test_variants_agree_within_rounding():
    weights = Weights("q4")
    program = attention_program(weights, (6, 2, 32))
    batch = replace(step([(tokens(40, 6), 0, [0, 1, 2])]), logit_rows=np.array([39], np.int32))
    first, *others = [native(program, weights, variant).forward(batch) for variant in VARIANTS]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=2e-2 * np.abs(first).max())
