"""The program: what a model family compiles to and what an executor runs.

A program is a flat tuple of fused operations over float32 activation buffers of shape
`[num_tokens, width]`, with its weights named by strings that the packed file resolves. The
native executor and its NumPy twin (`reference.py`) run the same program.

Below: nothing. Above: `models` builds programs, `engine` runs them. This module knows neither
checkpoints nor requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Int32 = npt.NDArray[np.int32]

__all__ = [
    "AddNorm",
    "Attention",
    "CacheLayer",
    "CopyHeads",
    "Embed",
    "EmbedPositions",
    "ForwardBatch",
    "HeadLinear",
    "LayerNorm",
    "Linear",
    "Logits",
    "MixtureOfExperts",
    "Norm",
    "Op",
    "Output",
    "Pool",
    "Program",
    "RmsNorm",
    "Rope",
    "View",
]


@dataclass(frozen=True)
class View:
    """Columns `[offset, offset + width)` of activation buffer `buffer`, for every token."""

    buffer: int
    offset: int
    width: int


@dataclass(frozen=True)
class Norm:
    """RMS normalisation (Zhang & Sennrich 2019): `x / sqrt(mean(x^2) + eps) * weight`.

    Attributes:
        weight: name of a float32 vector (families with a `1 + w` convention add the 1 when packing).
        eps: added to the mean square.
    """

    weight: str
    eps: float


@dataclass(frozen=True)
class Rope:
    """One rotary embedding (Su et al. 2021), shared by all layers that name it.

    Attributes:
        inv_freq: float32 `[rotary_dim / 2]`, angle per position, scaling (llama3, linear, yarn) applied; may be
            computed when it is first read.
        interleaved: pairs are (2i, 2i+1); otherwise (i, i + rotary_dim/2).
        attention_factor: multiplies cos and sin (yarn).
    """

    inv_freq: Sequence[float]
    interleaved: bool
    attention_factor: float = 1.0

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inv_freq)


@dataclass(frozen=True)
class CacheLayer:
    """What one attention layer keeps per token: `num_kv_heads` keys of `key_dim` and values of `value_dim`."""

    num_kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class Embed:
    """`out = table[token_id] * scale`; `table` is a packed linear of shape `[vocab, hidden]`.

    With `zero_first` position 0 gets zeros.
    """

    table: str
    out: View
    scale: float = 1.0
    zero_first: bool = False


@dataclass(frozen=True)
class EmbedPositions:
    """`out += positions[position + offset] (+ types[token_type])`: learned absolute positions.

    Attributes:
        positions: float32 `[num_positions, width]`. offset: row of position 0.
        types: float32 `[num_types, width]` or None; a batch without token types has type 0 everywhere.
    """

    positions: str
    out: View
    num_positions: int
    offset: int = 0
    types: str | None = None
    num_types: int = 0


@dataclass(frozen=True)
class LayerNorm:
    """`out = (input - mean) / sqrt(variance + eps) * weight + bias` (Ba et al. 2016); `out` may be `input` itself.

    `weight` and `bias` name float32 vectors.
    """

    input: View
    weight: str
    bias: str
    eps: float
    out: View


@dataclass(frozen=True)
class RmsNorm:
    """`out = norm(input)`; `out` may be `input` itself."""

    input: View
    norm: Norm
    out: View


@dataclass(frozen=True)
class AddNorm:
    """`out += norm(input)`: the residual step of families that normalise a block's output."""

    input: View
    norm: Norm
    out: View


@dataclass(frozen=True)
class Linear:
    """`y = act(norm(input) @ weight.T + bias)`, stored to or added to `out`.

    Attributes:
        norm: applied to the input first, or None.
        weight: packed linear; for a gated activation its panels alternate gate and up rows.
        bias: float32 vector `[rows]` or None (never with a gated activation).
        activation: "none", "silu_gate" (`silu(gate) * up`), "gelu_gate" (tanh-approximated GELU), or of every
            column "gelu" (exact: `x * Phi(x)`) or "tanh".
        accumulate: add to `out` (a residual) instead of storing; only without an activation.
    """

    input: View
    weight: str
    out: View
    norm: Norm | None = None
    bias: str | None = None
    activation: str = "none"
    accumulate: bool = False


@dataclass(frozen=True)
class HeadLinear:
    """One matrix per head: `out[:, h] = input[:, h] @ weight[h].T` (MLA's absorbed projections).

    `weight` is a packed linear with `num_heads` experts. Head h reads columns
    `input.offset + h * input_stride` onwards (`cols` of them) and writes `rows` columns at
    `out.offset + h * out_stride`.
    """

    input: View
    weight: str
    out: View
    num_heads: int
    input_stride: int
    out_stride: int


@dataclass(frozen=True)
class CopyHeads:
    """Copy `width` columns per head between strided places; a stride of 0 broadcasts or reads one head."""

    input: View
    out: View
    num_heads: int
    input_stride: int
    out_stride: int
    width: int


@dataclass(frozen=True)
class Attention:
    """Rotate, write the cache, attend.

    Order per head: optional RMS norm of query and key heads, rotary embedding on dims
    `[rope_offset, rope_offset + rotary_dim)`, cache write, softmax(q k^T * scale) v in float32.

    Attributes:
        query: `num_heads * key_dim` columns. key: `num_kv_heads * key_dim`. value: `num_kv_heads * value_dim`.
        out: `num_heads * value_dim` columns.
        cache: index into `Program.caches`.
        rope: index into `Program.ropes`, or None for no rotation.
        window: attend to at most this many latest tokens (itself included), or None.
        causal: a token sees itself and those before it; otherwise the whole context, which must all be in the step.
    """

    query: View
    key: View
    value: View
    out: View
    cache: int
    num_heads: int
    scale: float
    rope: int | None
    rope_offset: int = 0
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    window: int | None = None
    causal: bool = True


@dataclass(frozen=True)
class MixtureOfExperts:
    """Route each token to `top_k` experts and add their weighted outputs to `out`.

    Router (float32): `s = softmax|sigmoid(norm(x) @ router.T)`; choose the `top_k` largest of
    `s + router_bias` (among the `topk_group` of `n_group` groups with the largest sum of their two best);
    weights are the unbiased `s`, divided by their sum (+1e-20) if `normalize`, times `scale`.
    Ties go to the lower expert index. Each token adds its experts in ascending expert index.

    Attributes:
        router: float32 matrix `[num_experts, hidden]` stored as a vector; router_bias: float32 `[num_experts]` or None.
        gate_up: packed linear with `num_experts` experts, gate and up panels alternating; down: packed linear likewise.
        activation: "silu_gate" or "gelu_gate".
    """

    input: View
    norm: Norm
    router: str
    router_bias: str | None
    gate_up: str
    down: str
    out: View
    num_experts: int
    top_k: int
    intermediate_size: int
    scoring: str
    normalize: bool
    scale: float
    n_group: int = 1
    topk_group: int = 1
    activation: str = "silu_gate"


@dataclass(frozen=True)
class Logits:
    """`logits = norm(input[logit_rows]) @ weight.T * scale`, then `softcap * tanh(logits / softcap)` if set.

    `norm` may be None; `bias`, float32 `[vocab_size]`, is added to the product. A classifier is a `Logits` whose
    vocabulary is its labels.
    """

    input: View
    norm: Norm | None
    weight: str
    vocab_size: int
    scale: float = 1.0
    softcap: float | None = None
    bias: str | None = None


@dataclass(frozen=True)
class Pool:
    """`out[s] = mean(input[rows of sequence s])`: from here on there is one row per sequence.

    All tokens of every sequence are in the step. The batch's `logit_rows` say nothing in such a program beyond their
    number, one per sequence.
    """

    input: View
    out: View


@dataclass(frozen=True)
class Output:
    """The step's result is `input[logit_rows]` itself, not logits; `normalize` divides each row by its length."""

    input: View
    normalize: bool = False


Op = (
    Embed
    | EmbedPositions
    | LayerNorm
    | RmsNorm
    | AddNorm
    | Linear
    | HeadLinear
    | CopyHeads
    | Attention
    | MixtureOfExperts
    | Pool
    | Output
    | Logits
)


@dataclass(frozen=True)
class Program:
    """A compiled model: operations in order, over numbered buffers.

    Attributes:
        buffers: width of each float32 activation buffer; buffer 0 is the residual stream.
        ropes: rotary tables by index. caches: KV cache layers by index.
        max_position: positions are below this.
        keeps_hidden: the residual stream of every token outlives the step, for `read_hidden`.
        hidden_input: a buffer of hidden states that the caller fills before each step with `write_hidden`.
    """

    hidden_size: int
    vocab_size: int
    max_position: int
    buffers: tuple[int, ...]
    ropes: tuple[Rope, ...]
    caches: tuple[CacheLayer, ...]
    ops: tuple[Op, ...]
    keeps_hidden: bool = False
    hidden_input: int | None = None

    @property
    def output_size(self) -> int:
        """Columns of what a step returns."""
        last = self.ops[-1]
        if isinstance(last, Output):
            return last.input.width
        return last.vocab_size if isinstance(last, Logits) else self.vocab_size


@dataclass(frozen=True)
class ForwardBatch:
    """One engine step as plain integer arrays; `T` tokens of `S` sequences.

    Attributes:
        token_ids: int32 `[T]`, sequences back to back.
        positions: int32 `[T]`, absolute position of each token in its sequence.
        query_start: int32 `[S + 1]`, where each sequence's tokens begin in `[0, T]`.
        context_lens: int32 `[S]`, tokens of the sequence in the cache once this step is done.
        block_tables: int32 `[S, max_blocks]`, cache block of each run of `block_size` positions, padded with -1.
        logit_rows: int32 `[R]`, rows of the batch whose logits are wanted.
        token_types: int32 `[T]`, which segment of a pair a token belongs to; None = all to the first.
        adapter_ids: int32 `[S]`, slot of the LoRA adapter of each sequence, -1 = none; None = no sequence has one.
    """

    token_ids: Int32
    positions: Int32
    query_start: Int32
    context_lens: Int32
    block_tables: Int32
    logit_rows: Int32
    token_types: Int32 | None = None
    adapter_ids: Int32 | None = None


@dataclass(frozen=True)
class AdapterPart:
    """What a LoRA adapter adds to one `Linear`: `b @ (a @ x)` to the product with `x`, before bias and activation.

    Attributes:
        op: index of the Linear in the program.
        a: float32 `[rank, cols]`.
        b: float32 `[rows, rank]`, rows in the order of the packed weight, the adapter's scale multiplied in.
    """

    op: int
    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
