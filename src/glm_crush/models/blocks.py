"""The blocks that families are described with: attention, feed-forward, mixture of experts, decoder layer.

A block is a frozen description (sizes, checkpoint names, variants of the maths) that can lower itself to
operations: `emit` asks the builder for weights and buffers and appends operations. Every block reads the
residual stream through the norm it is given and either adds to the residual stream or, when the layer
normalises the block's output, stores into a temporary buffer. Below: `builder`. Above: the family files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from glm_crush.kernels.program import (
    AddNorm,
    Attention,
    CacheLayer,
    Linear,
    MixtureOfExperts,
    Norm,
    Rope,
    View,
)
from glm_crush.models.builder import ProgramBuilder
from glm_crush.weights.plan import Source, gated_rows

__all__ = ["Block", "DecoderLayer", "ExpertNames", "GatedMLP", "GroupedQueryAttention", "NormConvention", "SparseMoE"]


@dataclass(frozen=True)
class NormConvention:
    """How a family normalises: epsilon, and what is added to the stored weight (1 in gemma3)."""

    eps: float
    weight_offset: float = 0.0

    def emit(self, builder: ProgramBuilder, name: str, width: int) -> Norm:
        """The norm whose weight the checkpoint calls `name`."""
        return builder.norm(name, width, self.eps, self.weight_offset)


class Block(Protocol):
    """Half a decoder layer."""

    def emit(self, builder: ProgramBuilder, prefix: str, norm: Norm, out: View, *, accumulate: bool) -> None:
        """Appends `out (+)= block(norm(residual))`; `prefix` is the layer's in the checkpoint."""


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Softmax attention where `num_heads / num_kv_heads` query heads share a key and value head.

    Attributes:
        rope: rotary embedding over the first `rope.rotary_dim` dimensions of each head, or None.
        scale: factor of the scores. window: latest tokens seen, or None for all.
        qkv_bias, output_bias: whether those projections have biases.
        head_norm: RMS norm of each query and key head before rotation (`q_norm`, `k_norm`), or None.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    head_norm: NormConvention | None = None

    def emit(self, builder: ProgramBuilder, prefix: str, norm: Norm, out: View, *, accumulate: bool) -> None:
        """Appends the fused q/k/v projection, the attention and the output projection."""
        name = f"{prefix}.self_attn"
        query_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        qkv = builder.buffer("qkv", query_width + 2 * kv_width)
        mixed = builder.buffer("attention", query_width)
        projections = tuple(f"{name}.{which}_proj" for which in "qkv")
        weight = builder.linear(
            f"{name}.qkv_proj.weight", tuple(Source(f"{p}.weight") for p in projections), qkv.width, builder.hidden_size
        )
        bias = None
        if self.qkv_bias:
            sources = tuple(Source(f"{p}.bias") for p in projections)
            bias = builder.vector(f"{name}.qkv_proj.bias", sources, (qkv.width,))
        builder.add(Linear(builder.residual, weight, qkv, norm=norm, bias=bias))
        builder.add(
            Attention(
                query=View(qkv.buffer, 0, query_width),
                key=View(qkv.buffer, query_width, kv_width),
                value=View(qkv.buffer, query_width + kv_width, kv_width),
                out=mixed,
                cache=builder.cache(CacheLayer(self.num_kv_heads, self.head_dim, self.head_dim)),
                num_heads=self.num_heads,
                scale=self.scale,
                rope=None if self.rope is None else builder.rope(self.rope),
                query_norm=self._head_norm(builder, f"{name}.q_norm.weight"),
                key_norm=self._head_norm(builder, f"{name}.k_norm.weight"),
                window=self.window,
            )
        )
        emit_projection(builder, f"{name}.o_proj", mixed, out, bias=self.output_bias, accumulate=accumulate)

    def _head_norm(self, builder: ProgramBuilder, name: str) -> Norm | None:
        return None if self.head_norm is None else self.head_norm.emit(builder, name, self.head_dim)


def emit_projection(
    builder: ProgramBuilder, name: str, view: View, out: View, *, bias: bool = False, accumulate: bool
) -> None:
    """Appends `out (+)= view @ weight.T (+ bias)` for the checkpoint's linear `name`."""
    weight = builder.linear(f"{name}.weight", (Source(f"{name}.weight"),), out.width, view.width)
    vector = builder.vector(f"{name}.bias", (Source(f"{name}.bias"),), (out.width,)) if bias else None
    builder.add(Linear(view, weight, out, bias=vector, accumulate=accumulate))


@dataclass(frozen=True)
class GatedMLP:
    """`down(act(gate(x)) * up(x))`.

    Attributes:
        activation: "silu_gate" or "gelu_gate".
        fused: the checkpoint keeps gate and up in one `gate_up_proj`, gate rows first.
        name: where the weights are under the layer's prefix.
    """

    intermediate_size: int
    activation: str = "silu_gate"
    fused: bool = False
    name: str = "mlp"

    def emit(self, builder: ProgramBuilder, prefix: str, norm: Norm, out: View, *, accumulate: bool) -> None:
        """Appends the gated projection and the down projection."""
        self.emit_gate_up(builder, prefix, norm)
        self.emit_down(builder, prefix, out, accumulate=accumulate)

    def emit_gate_up(self, builder: ProgramBuilder, prefix: str, norm: Norm) -> None:
        """Appends the first half; the result waits in the feed-forward buffer."""
        name, size = f"{prefix}.{self.name}", self.intermediate_size
        if self.fused:
            gate, up = (Source(f"{name}.gate_up_proj.weight", rows) for rows in ((0, size), (size, 2 * size)))
        else:
            gate, up = (Source(f"{name}.{which}_proj.weight") for which in ("gate", "up"))
        weight = builder.gated(f"{name}.gate_up_proj.weight", gate, up, size, builder.hidden_size)
        hidden = builder.buffer("feed_forward", size)
        builder.add(Linear(builder.residual, weight, hidden, norm=norm, activation=self.activation))

    def emit_down(self, builder: ProgramBuilder, prefix: str, out: View, *, accumulate: bool) -> None:
        """Appends the second half."""
        hidden = builder.buffer("feed_forward", self.intermediate_size)
        emit_projection(builder, f"{prefix}.{self.name}.down_proj", hidden, out, accumulate=accumulate)


@dataclass(frozen=True)
class ExpertNames:
    """Where a family keeps its experts under the layer's prefix: `{module}.experts.{index}.{gate}.weight`."""

    module: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


@dataclass(frozen=True)
class SparseMoE:
    """Top-k of many gated MLPs, and perhaps one shared by all tokens.

    Attributes:
        scoring: "softmax" or "sigmoid". has_router_bias: `e_score_correction_bias` steers the choice.
        normalize, scale, n_group, topk_group: see `kernels.program.MixtureOfExperts`.
        shared: the MLP every token passes through, added with weight 1, or None.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    scoring: str
    normalize: bool
    scale: float = 1.0
    has_router_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    shared: GatedMLP | None = None
    names: ExpertNames = ExpertNames()

    def emit(self, builder: ProgramBuilder, prefix: str, norm: Norm, out: View, *, accumulate: bool) -> None:
        """Appends the experts, with the shared one's first half before they change the residual stream."""
        assert accumulate, "no family normalises the output of its experts"
        if self.shared is not None:
            self.shared.emit_gate_up(builder, prefix, norm)
        builder.add(self._experts(builder, f"{prefix}.{self.names.module}", norm, out))
        if self.shared is not None:
            self.shared.emit_down(builder, prefix, out, accumulate=True)

    def _experts(self, builder: ProgramBuilder, name: str, norm: Norm, out: View) -> MixtureOfExperts:
        def sources(*which: str) -> tuple[tuple[Source, ...], ...]:
            return tuple(
                tuple(Source(f"{name}.experts.{index}.{part}.weight") for part in which)
                for index in range(self.num_experts)
            )

        hidden, size, router, bias = builder.hidden_size, self.intermediate_size, f"{name}.gate.weight", None
        if self.has_router_bias:
            bias = f"{name}.gate.e_score_correction_bias"
            builder.vector(bias, (Source(bias),), (self.num_experts,))
        return MixtureOfExperts(
            input=builder.residual,
            norm=norm,
            router=builder.vector(router, (Source(router),), (self.num_experts, hidden)),
            router_bias=bias,
            gate_up=builder.stacked(
                f"{name}.experts.gate_up_proj.weight",
                sources(self.names.gate, self.names.up),
                gated_rows(size),
                hidden,
                gated=True,
            ),
            down=builder.stacked(f"{name}.experts.down_proj.weight", sources(self.names.down), hidden, size),
            out=out,
            num_experts=self.num_experts,
            top_k=self.top_k,
            intermediate_size=size,
            scoring=self.scoring,
            normalize=self.normalize,
            scale=self.scale,
            n_group=self.n_group,
            topk_group=self.topk_group,
        )


@dataclass(frozen=True)
class DecoderLayer:
    """`h += attention(norm(h)); h += feed_forward(norm(h))`, norm names as in the checkpoint.

    Attributes:
        attention_output_norm, feed_forward_output_norm: norm of a block's output before it is added, or None.
    """

    attention: Block
    feed_forward: Block
    attention_norm: str = "input_layernorm"
    feed_forward_norm: str = "post_attention_layernorm"
    attention_output_norm: str | None = None
    feed_forward_output_norm: str | None = None

    def emit(self, builder: ProgramBuilder, prefix: str, norms: NormConvention) -> None:
        """Appends the layer whose checkpoint names start with `prefix`."""
        halves = (
            (self.attention, self.attention_norm, self.attention_output_norm),
            (self.feed_forward, self.feed_forward_norm, self.feed_forward_output_norm),
        )
        width = builder.hidden_size
        for block, norm_name, output_norm_name in halves:
            norm = norms.emit(builder, f"{prefix}.{norm_name}.weight", width)
            if output_norm_name is None:
                block.emit(builder, prefix, norm, builder.residual, accumulate=True)
                continue
            unnormed = builder.buffer("block_output", width)
            block.emit(builder, prefix, norm, unnormed, accumulate=False)
            output_norm = norms.emit(builder, f"{prefix}.{output_norm_name}.weight", width)
            builder.add(AddNorm(unnormed, output_norm, builder.residual))
