"""Every variant's attention, norm, rotation, router scores and vocabulary passes against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.kernels._native import kernels
from glm_crush.kernels.program import Rope
from glm_crush.kernels.reference_cache import cached_keys, cached_values, hadamard
from glm_crush.kernels.reference_math import Float32, rms_norm, rotate, round_to_bfloat16

VARIANTS = kernels.available()
variants = pytest.mark.parametrize("variant", VARIANTS)
caches = pytest.mark.parametrize("kv_dtype", ["bf16", "int8", "f32"])
CHUNK = 256


def dyadic(x: np.ndarray) -> Float32:
    """Rounded to 2^-10, so that sums of a group are exact and NumPy rounds to the same int8 codes."""
    return (np.rint(x * 1024) / 1024).astype(np.float32)


class PagedKeys:
    """Random keys and values in shuffled cache blocks."""

    def __init__(self, context: int, kv_heads: int, key_dim: int, value_dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.keys = dyadic(rng.normal(size=(context, kv_heads, key_dim)))
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
    cache: PagedKeys,
    head: int,
    queries: np.ndarray,
    spans: np.ndarray,
    begin: int,
    end: int,
    kv_dtype: str,
    variant: str,
) -> tuple:
    """Float64 m, l, o of keys [begin, end); scores are in units of log 2."""
    keys, values = cached_keys(cache.keys[:, head], kv_dtype), cached_values(cache.values[:, head], kv_dtype)
    queries = queries * np.float32(SCALE)
    if kv_dtype == "bf16":
        queries = round_to_bfloat16(queries)
    elif (kv_dtype, variant) == ("int8", "avx512_vnni"):
        queries = query_codes(queries)
    scores = queries.astype(np.float64) @ keys[begin:end].T.astype(np.float64)
    position = np.arange(begin, end)
    scores = np.where((position >= spans[:, :1]) & (position < spans[:, 1:]), scores, -np.inf)
    m = scores.max(axis=1)
    p = np.exp2(scores - np.where(np.isfinite(m), m, 0)[:, None])
    return m, p.sum(axis=1), p @ values[begin:end]


def query_codes(queries: Float32) -> Float32:
    """Rounded to int8 in rotated groups of 64, as the integer dot product takes them."""
    rounded = []
    for part in np.split(queries, range(64, queries.shape[1], 64), axis=1):
        rotation = hadamard(part.shape[1])
        turned = part @ rotation
        scale = np.abs(turned).max(axis=1, keepdims=True) / 127
        rounded.append((np.rint(turned / scale) * scale) @ rotation.T)
    return np.concatenate(rounded, axis=1)


def queries_for(rows: int, dim: int, seed: int = 5) -> np.ndarray:
    return dyadic(np.random.default_rng(seed).normal(size=(rows, dim)))


def assert_chunk(variant: str, kv_dtype: str, actual: tuple, wanted: tuple) -> None:
    """Float32 sums, except that AVX-512 rounds probabilities before it multiplies them with values below 4.

    To bf16, each off by 2^-9 of itself at most; with int8 values to 16 bits, each off by half a part of 65,535.
    """
    for name, a, w in zip("mlo", actual, wanted, strict=True):
        slack: np.ndarray | float = 2e-5
        if name == "o" and (variant, kv_dtype) == ("avx512_vnni", "bf16"):
            slack = 4 * 2**-9 * np.asarray(wanted[1])[:, None]
        elif name == "o" and (variant, kv_dtype) == ("avx512_vnni", "int8"):
            slack = 4 * CHUNK * 0.5 / 65535
        assert (np.abs(a - w) <= 2e-5 * np.abs(w) + slack).all(), (name, np.abs(a - w).max())


@variants
@caches
@pytest.mark.parametrize(("key_dim", "value_dim"), [(32, 32), (64, 64), (80, 80), (128, 128), (576, 512), (6, 5)])
def test_attention_matches_numpy_for_every_head_size(variant, kv_dtype, key_dim, value_dim):
    cache = PagedKeys(75, 2, key_dim, value_dim)
    queries, spans = queries_for(5, key_dim), np.array([[0, 75], [0, 74], [3, 33], [0, 1], [70, 75]])
    for head in (0, 1):
        wanted = softmax_chunk(cache, head, queries, spans, 0, 75, kv_dtype, variant)
        assert_chunk(variant, kv_dtype, cache.attend(variant, kv_dtype, queries, spans, kv_head=head), wanted)


@variants
@caches
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 12, 31, 32])
@pytest.mark.parametrize("context", [1, 2, 15, 16, 17, 250, 256])
def test_attention_matches_numpy_for_every_number_of_rows_and_keys(variant, kv_dtype, rows, context):
    """Rows are query heads of one kv head times tokens: 3, 4 and 12 heads for one are among the counts."""
    cache, queries = PagedKeys(context, 1, 64, 64), queries_for(rows, 64)
    spans = np.stack([np.zeros(rows), np.maximum(1, context - np.arange(rows)[::-1])], axis=1)
    wanted = softmax_chunk(cache, 0, queries, spans, 0, context, kv_dtype, variant)
    assert_chunk(variant, kv_dtype, cache.attend(variant, kv_dtype, queries, spans), wanted)


@variants
@caches
def test_a_window_hides_earlier_keys_and_a_row_without_keys_gives_nothing(variant, kv_dtype):
    cache, queries = PagedKeys(300, 1, 32, 32), queries_for(4, 32)
    spans = np.array([[290, 300], [100, 280], [0, 256], [10, 200]])
    chunk = cache.attend(variant, kv_dtype, queries, spans, chunk_begin=256, chunk_end=300)
    wanted = softmax_chunk(cache, 0, queries, spans, 256, 300, kv_dtype, variant)
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
@caches
def test_a_key_that_is_no_number_makes_the_rows_that_see_it_no_numbers(variant, kv_dtype):
    """int8 has no NaN: the scale carries it."""
    for broken in (np.nan, np.inf):
        cache, queries = PagedKeys(40, 1, 64, 64), queries_for(2, 64)
        cache.keys[30, 0, 5] = broken
        cache.values[10, 0, 7] = np.nan
        _, _, output = cache.attend(variant, kv_dtype, queries, np.array([[11, 40], [0, 20]]))
        assert not np.isfinite(output[0]).all()
        assert not np.isfinite(output[1]).all()


@variants
def test_one_large_dimension_of_a_key_leaves_the_others_their_precision(variant):
    """Rotation spreads it: without, a scale of 40 / 127 would round the other dimensions by up to 0.16."""
    cache, queries = PagedKeys(64, 1, 64, 64), queries_for(1, 64)
    cache.keys[:, 0, 9] = 40
    queries[:, 9] = 0
    rounded = cached_keys(cache.keys, "int8") - cache.keys
    assert np.abs(rounded).std() < 0.04
    exact = softmax_chunk(cache, 0, queries, np.array([[0, 64]]), 0, 64, "f32", variant)
    largest, *_ = cache.attend(variant, "int8", queries, np.array([[0, 64]]))
    assert abs(largest[0] - exact[0][0]) < 0.1


@variants
@caches
def test_keys_not_written_yet_never_reach_a_result(variant, kv_dtype):
    """The harness fills the cache with NaN first: an odd context leaves a pair or a quad of values unfinished."""
    cache, queries = PagedKeys(19, 1, 32, 32), queries_for(2, 32)
    for part in cache.attend(variant, kv_dtype, queries, np.array([[0, 19], [0, 18]])):
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
    x, w = rng.normal(size=(7, n)).astype(np.float32), rng.normal(size=(9, n)).astype(np.float32)
    out = np.empty((7, 9), np.float32)
    kernels.dot_rows(variant, x, w, out)
    np.testing.assert_allclose(out, x.astype(np.float64) @ w.T, rtol=1e-5, atol=1e-5)
    for i, row in enumerate(x):
        alone = np.empty((1, 9), np.float32)
        kernels.dot_rows(variant, row[None], w, alone)
        np.testing.assert_array_equal(alone[0], out[i])  # whoever else is scored with it


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
