"""Every variant's attention, norm, rotation, router scores and vocabulary passes against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.kernels._native import kernels
from glm_crush.kernels.program import Rope
from glm_crush.kernels.reference_math import rms_norm, rotate, round_to_bfloat16

VARIANTS = kernels.available()
variants = pytest.mark.parametrize("variant", VARIANTS)
caches = pytest.mark.parametrize("kv_dtype", ["bf16", "f32"])
CHUNK = 256


class PagedKeys:
    """Random keys and values in shuffled cache blocks."""

    def __init__(self, context: int, kv_heads: int, key_dim: int, value_dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.keys = rng.normal(size=(context, kv_heads, key_dim)).astype(np.float32)
        self.values = rng.normal(size=(context, kv_heads, value_dim)).astype(np.float32)
        self.blocks = rng.permutation(-(-context // 16) + 2).astype(np.int32)

    def attend(self, variant: str, kv_dtype: str, queries: np.ndarray, spans: np.ndarray, **options: int) -> tuple:
        """Runs one chunk; spans is [rows, 2] of first and last key; returns m, l, o of the chunk."""
        rows, stored = len(queries), -(-self.values.shape[2] // 16) * 16
        out = {"m": (rows,), "l": (rows,), "o": (rows, stored)}
        out = {name: np.full(shape, 9, np.float32) for name, shape in out.items()}
        first, last = (np.ascontiguousarray(spans[:, i], np.int32) for i in (0, 1))
        options = {"kv_head": 0, "chunk_begin": 0, "chunk_end": min(CHUNK, len(self.keys)), "scale": SCALE, **options}
        arrays = (self.keys, self.values, self.blocks)
        kernels.attention(variant, kv_dtype, *arrays, queries=queries, first_key=first, last_key=last, **out, **options)
        output, padding = np.split(out["o"], [self.values.shape[2]], axis=1)
        assert not padding.any()
        return out["m"], out["l"], output


SCALE = 0.125 * np.log2(np.e)


def softmax_chunk(
    cache: PagedKeys, head: int, queries: np.ndarray, spans: np.ndarray, begin: int, end: int, kv_dtype: str
) -> tuple:
    """Float64 m, l, o of keys [begin, end); scores are in units of log 2."""
    keys, values, queries = cache.keys[:, head], cache.values[:, head], queries * np.float32(SCALE)
    if kv_dtype == "bf16":
        keys, values, queries = round_to_bfloat16(keys), round_to_bfloat16(values), round_to_bfloat16(queries)
    scores = queries.astype(np.float64) @ keys[begin:end].T.astype(np.float64)
    position = np.arange(begin, end)
    scores = np.where((position >= spans[:, :1]) & (position < spans[:, 1:]), scores, -np.inf)
    m = scores.max(axis=1)
    p = np.exp2(scores - np.where(np.isfinite(m), m, 0)[:, None])
    return m, p.sum(axis=1), p @ values[begin:end]


def queries_for(rows: int, dim: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def assert_chunk(variant: str, kv_dtype: str, actual: tuple, wanted: tuple) -> None:
    """Float32 sums, except that AVX-512 rounds probabilities to bf16 before it multiplies them with bf16 values."""
    for name, a, w in zip("mlo", actual, wanted, strict=True):
        is_rounded = name == "o" and (variant, kv_dtype) == ("avx512_vnni", "bf16")
        # Values are below 4 and each probability is off by 2^-9 of itself at most.
        slack = 4 * 2**-9 * np.asarray(wanted[1])[:, None] if is_rounded else 2e-5
        assert (np.abs(a - w) <= 2e-5 * np.abs(w) + slack).all(), (name, np.abs(a - w).max())


@variants
@caches
@pytest.mark.parametrize(("key_dim", "value_dim"), [(32, 32), (64, 64), (80, 80), (128, 128), (576, 512), (6, 5)])
def test_attention_matches_numpy_for_every_head_size(variant, kv_dtype, key_dim, value_dim):
    cache = PagedKeys(75, 2, key_dim, value_dim)
    queries, spans = queries_for(5, key_dim), np.array([[0, 75], [0, 74], [3, 33], [0, 1], [70, 75]])
    for head in (0, 1):
        wanted = softmax_chunk(cache, head, queries, spans, 0, 75, kv_dtype)
        assert_chunk(variant, kv_dtype, cache.attend(variant, kv_dtype, queries, spans, kv_head=head), wanted)


@variants
@caches
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 12, 31, 32])
@pytest.mark.parametrize("context", [1, 2, 15, 16, 17, 250, 256])
def test_attention_matches_numpy_for_every_number_of_rows_and_keys(variant, kv_dtype, rows, context):
    """Rows are query heads of one kv head times tokens: 3, 4 and 12 heads for one are among the counts."""
    cache, queries = PagedKeys(context, 1, 64, 64), queries_for(rows, 64)
    spans = np.stack([np.zeros(rows), np.maximum(1, context - np.arange(rows)[::-1])], axis=1)
    wanted = softmax_chunk(cache, 0, queries, spans, 0, context, kv_dtype)
    assert_chunk(variant, kv_dtype, cache.attend(variant, kv_dtype, queries, spans), wanted)


@variants
@caches
def test_a_window_hides_earlier_keys_and_a_row_without_keys_gives_nothing(variant, kv_dtype):
    cache, queries = PagedKeys(300, 1, 32, 32), queries_for(4, 32)
    spans = np.array([[290, 300], [100, 280], [0, 256], [10, 200]])
    chunk = cache.attend(variant, kv_dtype, queries, spans, chunk_begin=256, chunk_end=300)
    wanted = softmax_chunk(cache, 0, queries, spans, 256, 300, kv_dtype)
    assert_chunk(variant, kv_dtype, *(tuple(part[:2] for part in parts) for parts in (chunk, wanted)))
    largest, total, output = (part[2:] for part in chunk)
    assert np.isneginf(largest).all()
    assert total.tolist() == [0, 0]
    assert not output.any()


@variants
@caches
def test_a_row_is_bit_equal_whatever_shares_its_tile_and_however_far_the_chunk_reaches(variant, kv_dtype):
    cache, queries = PagedKeys(200, 1, 80, 48), queries_for(32, 80)
    spans = np.stack([np.arange(32), 40 + 5 * np.arange(32)], axis=1)
    ends = spans[:, 1].tolist()
    alone = [
        cache.attend(variant, kv_dtype, queries[i : i + 1], spans[i : i + 1], chunk_end=ends[i]) for i in range(32)
    ]
    for rows in (2, 3, 4, 5, 7, 8, 12, 16, 31, 32):
        together = cache.attend(variant, kv_dtype, queries[:rows], spans[:rows])
        for i in range(rows):
            for name, part, whole in zip("mlo", alone[i], together, strict=True):
                np.testing.assert_array_equal(whole[i], part[0], err_msg=f"{name} of row {i} among {rows}")


@variants
def test_keys_not_written_yet_never_reach_a_result(variant):
    """The harness fills the cache with NaN first: an odd context leaves half a pair of values unwritten."""
    cache, queries = PagedKeys(19, 1, 32, 32), queries_for(2, 32)
    for part in cache.attend(variant, "bf16", queries, np.array([[0, 19], [0, 18]])):
        assert np.isfinite(part).all()


@variants
@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 100, 576])
def test_rms_norm_matches_numpy(variant, n):
    rng = np.random.default_rng(n)
    x, weight, out = (rng.normal(size=n).astype(np.float32) for _ in range(3))
    kernels.rms_norm(variant, x, weight, 1e-5, out)
    np.testing.assert_allclose(out, rms_norm(x, weight, 1e-5), rtol=3e-6)


@variants
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", [1, 4, 10, 16, 32])
def test_rope_matches_numpy_and_leaves_the_rest_alone(variant, interleaved, half):
    rng = np.random.default_rng(half)
    x = rng.normal(size=2 * half + 5).astype(np.float32)
    rope = Rope(inv_freq=tuple(float(np.float32(f)) for f in rng.uniform(0, 1, half)), interleaved=interleaved)
    wanted = rotate(x.reshape(1, 1, -1), np.array([7], np.int32), rope, 0).reshape(-1)
    angles = np.float32(7) * np.array(rope.inv_freq, np.float32)
    kernels.rope(variant, x, np.cos(angles), np.sin(angles), interleaved)
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)


@variants
@pytest.mark.parametrize("n", [3, 16, 50, 576])
def test_router_scores_match_numpy(variant, n):
    rng = np.random.default_rng(n)
    x, w, out = (
        rng.normal(size=n).astype(np.float32),
        rng.normal(size=(9, n)).astype(np.float32),
        np.empty(9, np.float32),
    )
    kernels.dot_rows(variant, x, w, out)
    np.testing.assert_allclose(out, w.astype(np.float64) @ x, rtol=1e-5, atol=1e-5)


@variants
@pytest.mark.parametrize("size", [1, 31, 32, 33, 512, 513, 1000, 5000])
@pytest.mark.parametrize("inverse_temperature", [0.1, 1.0, 30.0])
def test_vocabulary_passes_match_numpy(variant, size, inverse_temperature):
    """NaN and -infinity weigh nothing, nor does what lies 87 or more below the largest."""
    logits = np.random.default_rng(size).normal(0, 3, size).astype(np.float32)
    logits[1::7] = -np.inf
    logits[2::9] = np.nan
    maxima = np.empty(-(-size // 32), np.float32)
    total = kernels.vocabulary_sum(variant, logits, inverse_temperature, maxima)
    finite = np.where(np.isnan(logits), -np.inf, logits)
    padding = np.full(-size % 32, -np.inf, np.float32)
    np.testing.assert_array_equal(maxima, np.append(finite, padding).reshape(-1, 32).max(axis=1))
    exponents = (finite.astype(np.float64) - finite.max()) * np.float32(inverse_temperature)
    assert total == pytest.approx(np.exp(exponents).sum(), rel=2e-6)
