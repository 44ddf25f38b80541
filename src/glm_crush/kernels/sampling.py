"""Sampling at the native boundary: plain arrays in, tokens out, and the NumPy twin of the native sampler.

Every row is drawn on its own: the random number depends on the row's seed and on the index of the
token in its reply alone, so a request gets the same tokens alone, in any batch and after a
preemption.

Above: the executor and `engine.sampler`, which fills a `SampleBatch` from `SamplingParams`. This
module knows neither requests nor strings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm_crush.errors import KernelError

__all__ = ["SampleBatch", "SampleResult", "philox_uniform", "reference_sample"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]

# exp of anything below this counts as 0, in the native sampler too: its float32 exp ends here.
_LOWEST_EXPONENT = np.float32(-87.0)
_LOWEST_TEMPERATURE = np.float32(1e-30)


@dataclass(frozen=True)
class SampleBatch:
    """How to draw one token for each of `R` rows of logits. Meanings and order are those of `types.SamplingParams`.

    Attributes:
        temperature: float32 `[R]`, 0 = greedy. top_k: int32 `[R]`, 0 = all.
        top_p, min_p, typical_p: float32 `[R]`.
        repetition_penalty, presence_penalty, frequency_penalty: float32 `[R]`.
        seed, counter: uint64 `[R]`; counter is the index of the token in its reply.
        num_logprobs: int32 `[R]`, alternatives to report, -1 = not even the chosen token's.
        history_start: int32 `[R + 1]`, row r owns `history_ids[history_start[r]:history_start[r + 1]]`.
        history_ids: int32, distinct tokens of prompt and reply.
        history_counts: int32, occurrences in the reply (0 = prompt only).
        bias_start, bias_ids, bias_values: the logit bias, likewise.
        allowed_mask: uint32 `[R, ceil(vocab / 32)]`, bit `id % 32` of word `id // 32` allows a token, or None.
    """

    temperature: Float32
    top_k: Int32
    top_p: Float32
    min_p: Float32
    typical_p: Float32
    repetition_penalty: Float32
    presence_penalty: Float32
    frequency_penalty: Float32
    seed: UInt64
    counter: UInt64
    num_logprobs: Int32
    history_start: Int32
    history_ids: Int32
    history_counts: Int32
    bias_start: Int32
    bias_ids: Int32
    bias_values: Float32
    allowed_mask: UInt32 | None = None

    @property
    def num_rows(self) -> int:
        return len(self.temperature)

    @classmethod
    def greedy(cls, num_rows: int) -> SampleBatch:
        """The likeliest token of every row, no penalties, no logprobs."""
        off, on = np.zeros(num_rows, np.float32), np.ones(num_rows, np.float32)
        no_ids, start = np.zeros(0, np.int32), np.zeros(num_rows + 1, np.int32)
        return cls(
            temperature=off,
            top_k=np.zeros(num_rows, np.int32),
            top_p=on,
            min_p=off,
            typical_p=on,
            repetition_penalty=on,
            presence_penalty=off,
            frequency_penalty=off,
            seed=np.zeros(num_rows, np.uint64),
            counter=np.zeros(num_rows, np.uint64),
            num_logprobs=np.full(num_rows, -1, np.int32),
            history_start=start,
            history_ids=no_ids,
            history_counts=no_ids,
            bias_start=start,
            bias_ids=no_ids,
            bias_values=np.zeros(0, np.float32),
        )

    def check(self, num_rows: int, vocab_size: int) -> None:
        """Raises KernelError naming the array whose dtype, size or content does not fit the logits."""
        for name in ("temperature", "top_p", "min_p", "typical_p"):
            _check_array(name, getattr(self, name), np.float32, (num_rows,))
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            _check_array(name, getattr(self, name), np.float32, (num_rows,))
        for name in ("top_k", "num_logprobs"):
            _check_array(name, getattr(self, name), np.int32, (num_rows,))
        for name in ("seed", "counter"):
            _check_array(name, getattr(self, name), np.uint64, (num_rows,))
        _check_rows_of_ids("history", self.history_start, self.history_ids, num_rows, vocab_size)
        _check_array("history_counts", self.history_counts, np.int32, self.history_ids.shape)
        _check_rows_of_ids("bias", self.bias_start, self.bias_ids, num_rows, vocab_size)
        _check_array("bias_values", self.bias_values, np.float32, self.bias_ids.shape)
        if self.allowed_mask is not None:
            _check_array("allowed_mask", self.allowed_mask, np.uint32, (num_rows, (vocab_size + 31) // 32))


@dataclass(frozen=True)
class SampleResult:
    """The drawn tokens.

    Attributes:
        token_ids: int32 `[R]`; -1 where no token can be drawn (all masked out, or every logit NaN or -inf).
        logprobs: float32 `[R]`, log-softmax of the unmodified logits at the token; NaN where not asked for.
        top_ids: int32 `[R, K]`, K = the largest `num_logprobs`; likeliest first, ties by id, padded with -1.
        top_logprobs: float32 `[R, K]`, padded with -inf.
    """

    token_ids: Int32
    logprobs: Float32
    top_ids: Int32
    top_logprobs: Float32


def philox_uniform(seed: int, counter: int) -> float:
    """Uniform number in the open interval (0, 1): Philox4x32-10 (Salmon et al. 2011), key = seed, 52 bits."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter & mask, counter >> 32, 0, 0
    k0, k1 = seed & mask, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return (((c1 << 32 | c0) >> 12) + 0.5) * 2.0**-52


def reference_sample(logits: Float32, batch: SampleBatch) -> SampleResult:
    """Draw one token per row; the twin of the native sampler.

    Both give the same token for the same logits except where a filter's limit or the drawn number
    falls between two sums that differ in the last digits: the native sampler takes exp in float32
    (relative error 1e-7) and adds the whole vocabulary in another order. That is a chance of about
    one in a million draws. Ranking, masking, top-k and greedy choices are exact.

    Args:
        logits: float32 `[R, vocab]`, not modified.
        batch: how to draw, `R` rows.

    Raises:
        KernelError: an array of the batch does not fit `logits`.
    """
    num_rows, vocab_size = len(logits), logits.shape[-1]
    _check_array("logits", logits, np.float32, (num_rows, vocab_size))
    batch.check(num_rows, vocab_size)
    width = max(0, int(batch.num_logprobs.max(initial=0)))
    result = SampleResult(
        token_ids=np.full(num_rows, -1, np.int32),
        logprobs=np.full(num_rows, np.nan, np.float32),
        top_ids=np.full((num_rows, width), -1, np.int32),
        top_logprobs=np.full((num_rows, width), -np.inf, np.float32),
    )
    for row in range(num_rows):
        token = _sample_row(logits[row], batch, row)
        result.token_ids[row] = token
        if batch.num_logprobs[row] >= 0 and token >= 0:
            _report_logprobs(logits[row], token, int(batch.num_logprobs[row]), row, result)
    return result


def _sample_row(raw: Float32, batch: SampleBatch, row: int) -> int:
    logits = _adjust(raw, batch, row)
    order = _descending(logits)
    if len(order) == 0:
        return -1
    best = logits[order[0]]
    if batch.temperature[row] == 0 or np.isposinf(best):
        return int(order[0])
    inverse_temperature = np.float32(1) / max(batch.temperature[row], _LOWEST_TEMPERATURE)
    exponent = (logits[order] - best) * inverse_temperature
    order, exponent = order[exponent >= _LOWEST_EXPONENT], exponent[exponent >= _LOWEST_EXPONENT]
    if batch.top_k[row] > 0:
        order, exponent = order[: batch.top_k[row]], exponent[: batch.top_k[row]]
    keep = _filter(np.exp(exponent.astype(np.float64)), batch, row)
    cumulative = np.cumsum(keep)
    drawn = philox_uniform(int(batch.seed[row]), int(batch.counter[row])) * cumulative[-1]
    return int(order[min(int(np.searchsorted(cumulative, drawn)), int(np.flatnonzero(keep)[-1]))])


def _adjust(raw: Float32, batch: SampleBatch, row: int) -> Float32:
    """Penalties (Keskar et al. 2019 for repetition), bias and mask."""
    logits = raw.copy()
    history = slice(batch.history_start[row], batch.history_start[row + 1])
    ids, counts = batch.history_ids[history], batch.history_counts[history]
    seen, penalty = logits[ids], batch.repetition_penalty[row]
    seen = np.where(seen > 0, seen / penalty, seen * penalty)
    replied = counts > 0
    subtract = batch.presence_penalty[row] + batch.frequency_penalty[row] * counts.astype(np.float32)
    logits[ids] = np.where(replied, seen - subtract, seen)
    bias = slice(batch.bias_start[row], batch.bias_start[row + 1])
    logits[batch.bias_ids[bias]] += batch.bias_values[bias]
    if batch.allowed_mask is not None:
        bits = np.unpackbits(batch.allowed_mask[row].astype("<u4").view(np.uint8), bitorder="little")
        logits[bits[: len(logits)] == 0] = -np.inf
    return logits


def _descending(logits: Float32) -> Int64:
    """Ids of the tokens that can be drawn, likeliest first, ties by id."""
    order = np.argsort(-logits, kind="stable")
    return order[logits[order] > -np.inf]


def _filter(weight: Float64, batch: SampleBatch, row: int) -> Float64:
    """Zero the weights, given in descending order, that top_p, min_p and typical_p drop; the first one stays."""
    if batch.top_p[row] < 1:
        weight = weight[_mass_before(weight) < float(batch.top_p[row]) * np.cumsum(weight)[-1]]
    weight = weight[weight >= min(float(batch.min_p[row]), 1.0)]
    if batch.typical_p[row] < 1:
        prob = weight / weight.sum()
        surprise = -np.log(prob)
        order = np.argsort(np.abs(surprise - prob @ surprise), kind="stable")
        weight[order[_mass_before(prob[order]) >= float(batch.typical_p[row])]] = 0.0
    return weight


def _mass_before(weight: Float64) -> Float64:
    return np.concatenate([np.zeros(1), np.cumsum(weight)[:-1]])


def _report_logprobs(raw: Float32, token: int, num_logprobs: int, row: int, result: SampleResult) -> None:
    order = _descending(raw)
    best = float(raw[order[0]]) if len(order) else np.nan
    log_sum = best + np.log(np.exp(raw[order].astype(np.float64) - best).sum())
    result.logprobs[row] = raw[token] - log_sum
    top = order[:num_logprobs]
    result.top_ids[row, : len(top)] = top
    result.top_logprobs[row, : len(top)] = raw[top] - log_sum


def _check_array(name: str, array: npt.NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise KernelError(
            f"{name} is {array.dtype} {list(array.shape)}; the sampler needs {np.dtype(dtype)} {list(shape)}"
        )


def _check_rows_of_ids(name: str, start: Int32, ids: Int32, num_rows: int, vocab_size: int) -> None:
    _check_array(f"{name}_start", start, np.int32, (num_rows + 1,))
    _check_array(f"{name}_ids", ids, np.int32, (len(ids),))
    if start[0] != 0 or start[-1] != len(ids) or (np.diff(start) < 0).any():
        raise KernelError(f"{name}_start must rise from 0 to {len(ids)} (the size of {name}_ids), not {start.tolist()}")
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        raise KernelError(f"{name}_ids lie in [{ids.min()}, {ids.max()}]; the vocabulary is [0, {vocab_size})")
