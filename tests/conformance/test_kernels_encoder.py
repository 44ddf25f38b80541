"""Kernels that only encoders use, every variant against NumPy: layer norm, exact GELU, tanh; and refused batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glm_crush.errors import KernelError
from glm_crush.kernels._native import kernels
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import (
    Attention,
    CacheLayer,
    Embed,
    EmbedPositions,
    ForwardBatch,
    LayerNorm,
    Linear,
    Output,
    Pool,
    Program,
    View,
)
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.kernels.reference_math import activation, layer_norm
from glm_crush.weights.layout import pack_f32
from tests.conformance.test_executor import Weights
from tests.models.encoder_run import whole_texts

variants = pytest.mark.parametrize("variant", kernels.available())
HIDDEN, VOCAB = 96, 50


@variants
@pytest.mark.parametrize("size", [1, 15, 16, 17, 72, 384, 1024])
def test_layer_norm_matches_numpy(variant: str, size: int) -> None:
    rng = np.random.default_rng(size)
    x = (3 + 2 * rng.standard_normal(size)).astype(np.float32)
    weight, bias = rng.standard_normal((2, size)).astype(np.float32)
    out = np.empty(size, np.float32)
    kernels.layer_norm(variant, x, weight, bias, 1e-5, out)
    np.testing.assert_allclose(out, layer_norm(x, weight, bias, 1e-5), atol=2e-5, rtol=0)


@variants
@pytest.mark.parametrize("kind", ["gelu", "tanh"])
@pytest.mark.parametrize("rows", [5, 40])
def test_activations_of_a_product_match_numpy(variant: str, kind: str, rows: int) -> None:
    """The product is with unit columns: from far in one tail to far in the other, zero of both signs among them."""
    weight = np.zeros((rows, 64), np.float32)
    weight[:, 0] = np.linspace(-12, 12, rows)
    panels = pack_f32(weight)
    x = np.zeros((3, 64), np.float32)
    x[:, 0] = 1, 0.1, -0.0
    bias = np.linspace(-0.5, 0.5, rows).astype(np.float32)
    out = np.empty((3, rows), np.float32)
    pairs = -(-rows // 32)
    kernels.matmul(
        variant, "f32", panels, x, out, cols=64, panel_begin=0, panel_end=2 * pairs, epilogue=kind, bias=bias
    )
    np.testing.assert_allclose(out, activation(x @ weight.T + bias, kind), atol=1e-6, rtol=1e-6)


def encoder_program(weights: Weights) -> Program:
    """Words, positions and types, one layer of attention both ways, a feed-forward, the mean of each text."""
    stream, qkv, mixed, inner = View(0, 0, HIDDEN), View(1, 0, 3 * HIDDEN), View(2, 0, HIDDEN), View(3, 0, 40)
    gain, shift = weights.random_vector("gain", HIDDEN, 1.0), weights.random_vector("shift_", HIDDEN)
    ops = (
        Embed(weights.linear("embed", VOCAB, HIDDEN), stream),
        EmbedPositions(
            weights.random_vector("positions", 42 * HIDDEN),
            stream,
            num_positions=42,
            offset=2,
            types=weights.random_vector("types", 2 * HIDDEN),
            num_types=2,
        ),
        LayerNorm(stream, gain, shift, 1e-5, stream),
        Linear(stream, weights.linear("qkv", 3 * HIDDEN, HIDDEN), qkv),
        Attention(
            View(1, 0, HIDDEN),
            View(1, HIDDEN, HIDDEN),
            View(1, 2 * HIDDEN, HIDDEN),
            mixed,
            cache=0,
            num_heads=4,
            scale=0.2,
            rope=None,
            causal=False,
        ),
        Linear(mixed, weights.linear("out", HIDDEN, HIDDEN), stream, accumulate=True),
        Linear(
            stream,
            weights.linear("up", 40, HIDDEN),
            inner,
            bias=weights.random_vector("up_bias", 40),
            activation="gelu",
        ),
        Linear(inner, weights.linear("down", HIDDEN, 40), stream, accumulate=True),
        Pool(stream, View(4, 0, HIDDEN)),
        Output(View(4, 0, HIDDEN)),
    )
    return Program(HIDDEN, VOCAB, 400, (HIDDEN, 3 * HIDDEN, HIDDEN, 40, HIDDEN), (), (CacheLayer(4, 24, 24),), ops)


def batch() -> ForwardBatch:
    rng = np.random.default_rng(7)
    return whole_texts([(rng.integers(0, VOCAB, n), rng.integers(0, 2, n)) for n in (9, 40, 1, 17)], "mean")


@variants
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16"])
@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8", "q8g", "q4", "q4a"])
def test_an_encoder_matches_the_reference(variant: str, kv_dtype: str, fmt: str) -> None:
    weights = Weights(fmt)
    program = encoder_program(weights)
    wanted = ReferenceExecutor(
        program, weights.dense(), num_blocks=12, kv_dtype=kv_dtype, quantize_activations=True
    ).forward(batch())
    executor = Executor(program, weights, num_threads=2, num_blocks=12, kv_dtype=kv_dtype, kernels=variant)
    tolerance = 2e-5 if (kv_dtype, fmt) == ("f32", "f32") else 2e-2
    np.testing.assert_allclose(executor.forward(batch()), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_types": np.full(67, 2, np.int32)}, "token_types\\[0\\] is 2; the model has 2 types"),
        ({"token_types": np.zeros(3, np.int32)}, "token_types has 3 entries, token_ids 67"),
        ({"logit_rows": np.arange(67, dtype=np.int32)}, "logit_rows has 67 entries; .* each of 4 sequences"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    weights = Weights("f32")
    executor = Executor(encoder_program(weights), weights, num_threads=1, num_blocks=12)
    with pytest.raises(KernelError, match=message):
        executor.forward(replace(batch(), **change))


def test_texts_longer_than_the_position_table_and_parts_of_texts_are_refused() -> None:
    weights = Weights("f32")
    executor = Executor(encoder_program(weights), weights, num_threads=1, num_blocks=12)
    with pytest.raises(KernelError, match=r"context_lens\[0\] is 41; the model has 40 positions"):
        executor.forward(whole_texts([([1] * 41, [0] * 41)], "mean"))
    half = replace(whole_texts([([1] * 4, [0] * 4)], "mean"), context_lens=np.array([8], np.int32))
    with pytest.raises(KernelError, match="sequence 0 is not whole"):
        executor.forward(replace(half, positions=np.arange(4, 8, dtype=np.int32)))
