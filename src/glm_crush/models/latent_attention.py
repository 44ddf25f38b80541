"""Multi-head latent attention (DeepSeek-V2, section 2.1), in its absorbed form.

Keys and values of all heads are linear images of one latent per token, so the cache keeps the latent and the
rotated part of the key only, and attention runs as multi-query attention over them: the key projection is
applied to the query instead, the value projection to what attention returns. Per head, with latent c and
rotary key r: `(W_k c) . q_nope = c . (W_k^T q_nope)`.

    query  [latent | rope] x heads      key  [latent | rope]      value  latent

Below: `builder`, `blocks`. Above: `glm4_moe_lite`.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.kernels.program import (
    Attention,
    CacheLayer,
    CopyHeads,
    HeadLinear,
    Linear,
    Norm,
    RmsNorm,
    Rope,
    View,
)
from glm_crush.models.blocks import NormConvention, emit_projection
from glm_crush.models.builder import ProgramBuilder
from glm_crush.weights.plan import Source

__all__ = ["LatentAttention"]


@dataclass(frozen=True)
class LatentAttention:
    """Attention over one latent of `kv_lora_rank` values per token.

    Attributes:
        q_lora_rank: width of the query's own latent, or None for a direct query projection.
        nope_dim, rope_dim: unrotated and rotated dimensions of a query head. value_dim: of a value head.
        norms: the convention of the two latent norms.
        bias: whether the projections into the latents and out have biases.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    rope: Rope
    norms: NormConvention
    bias: bool = False

    def emit(self, builder: ProgramBuilder, prefix: str, norm: Norm, out: View, *, accumulate: bool) -> None:
        """Appends projections, latent norms, absorbed attention and the output projection."""
        name, heads, latent = f"{prefix}.self_attn", self.num_heads, self.kv_lora_rank
        key_dim = latent + self.rope_dim
        query, key = self._project(builder, name, norm)
        absorbed = builder.buffer("latent_query", heads * key_dim)
        head_dim = self.nope_dim + self.rope_dim
        weight = self._per_head(builder, name, "k", (0, self.nope_dim), transpose=True)
        builder.add(HeadLinear(query, weight, absorbed, heads, head_dim, key_dim))
        builder.add(
            CopyHeads(
                View(query.buffer, query.offset + self.nope_dim, query.width - self.nope_dim),
                View(absorbed.buffer, latent, absorbed.width - latent),
                num_heads=heads,
                input_stride=head_dim,
                out_stride=key_dim,
                width=self.rope_dim,
            )
        )
        mixed = builder.buffer("latent_attention", heads * latent)
        builder.add(
            Attention(
                query=absorbed,
                key=key,
                value=View(key.buffer, key.offset, latent),
                out=mixed,
                cache=builder.cache(CacheLayer(1, key_dim, latent)),
                num_heads=heads,
                scale=self.scale,
                rope=builder.rope(self.rope),
                rope_offset=latent,
            )
        )
        values = builder.buffer("attention", heads * self.value_dim)
        weight = self._per_head(builder, name, "v", (self.nope_dim, self.nope_dim + self.value_dim))
        builder.add(HeadLinear(mixed, weight, values, heads, latent, self.value_dim))
        emit_projection(builder, f"{name}.o_proj", values, out, bias=self.bias, accumulate=accumulate)

    def _project(self, builder: ProgramBuilder, name: str, norm: Norm) -> tuple[View, View]:
        """Appends the projections up to the latents; returns where queries and the normed latent key lie.

        The query latent (or the query itself) and the key latent come from one fused projection.
        """
        query_width = self.num_heads * (self.nope_dim + self.rope_dim)
        first_name, first_width = ("q_proj", query_width)
        if self.q_lora_rank is not None:
            first_name, first_width = ("q_a_proj", self.q_lora_rank)
        parts = (f"{name}.{first_name}", f"{name}.kv_a_proj_with_mqa")
        joined = builder.buffer("latents", first_width + self.kv_lora_rank + self.rope_dim)
        weight = builder.linear(
            f"{name}.latents_proj.weight",
            tuple(Source(f"{p}.weight") for p in parts),
            joined.width,
            builder.hidden_size,
        )
        builder.add(Linear(builder.residual, weight, joined, norm=norm, bias=self._bias(builder, name, first_width)))
        first = View(joined.buffer, 0, first_width)
        key = View(joined.buffer, first_width, self.kv_lora_rank + self.rope_dim)
        latent = View(key.buffer, key.offset, self.kv_lora_rank)
        key_norm = self.norms.emit(builder, f"{name}.kv_a_layernorm.weight", self.kv_lora_rank)
        builder.add(RmsNorm(latent, key_norm, latent))
        if self.q_lora_rank is None:
            return first, key
        query = builder.buffer("query", query_width)
        query_norm = self.norms.emit(builder, f"{name}.q_a_layernorm.weight", first_width)
        weight = builder.linear(
            f"{name}.q_b_proj.weight", (Source(f"{name}.q_b_proj.weight"),), query_width, first_width
        )
        builder.add(Linear(first, weight, query, norm=query_norm))
        return query, key

    def _bias(self, builder: ProgramBuilder, name: str, first_width: int) -> str | None:
        """Bias of the fused projection; a direct query projection has none, so its part is zeros."""
        if not self.bias:
            return None
        width = first_width + self.kv_lora_rank + self.rope_dim
        sources = (Source(f"{name}.q_a_proj.bias"), Source(f"{name}.kv_a_proj_with_mqa.bias"))
        return builder.vector(f"{name}.latents_proj.bias", sources, (width,))

    def _per_head(
        self, builder: ProgramBuilder, name: str, which: str, rows: tuple[int, int], *, transpose: bool = False
    ) -> str:
        """Asks for those rows of every head's part of `kv_b_proj`; transposed, they map a query to the latent."""
        step = self.nope_dim + self.value_dim
        heads = tuple(
            (Source(f"{name}.kv_b_proj.weight", (head * step + rows[0], head * step + rows[1]), transpose),)
            for head in range(self.num_heads)
        )
        shape = (rows[1] - rows[0], self.kv_lora_rank)
        return builder.stacked(f"{name}.{which}_b_proj.weight", heads, *(shape[::-1] if transpose else shape))
