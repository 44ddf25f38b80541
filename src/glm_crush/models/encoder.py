"""An encoder as families describe it (BERT and its kin), and how it becomes operations.

Post-norm layers over a residual stream: `h = norm(h + attention(h)); h = norm(h + feed_forward(h))`, attention both
ways, learned positions. Above: `compiler`, the family files. Below: `builder`, `heads`.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.kernels.program import Attention, CacheLayer, Embed, EmbedPositions, Linear, View
from glm_crush.models.builder import ProgramBuilder
from glm_crush.models.encoder_parts import emit_biased, emit_layer_norm
from glm_crush.models.heads import Head
from glm_crush.weights.plan import Source

__all__ = ["WORD_EMBEDDINGS", "Encoder", "EncoderLayer", "lower_encoder"]

WORD_EMBEDDINGS = "model.embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class EncoderLayer:
    """Sizes of one layer; names are those of BERT's checkpoints.

    Attributes:
        eps: of both norms. activation: "gelu" or "tanh", between the feed-forward's two products.
    """

    num_heads: int
    intermediate_size: int
    eps: float
    activation: str = "gelu"

    def emit(self, builder: ProgramBuilder, prefix: str) -> None:
        """Appends the layer whose checkpoint names start with `prefix`."""
        self._emit_attention(builder, f"{prefix}.attention")
        emit_layer_norm(builder, f"{prefix}.attention.output.LayerNorm", self.eps)
        hidden = builder.buffer("feed_forward", self.intermediate_size)
        name = f"{prefix}.intermediate.dense"
        emit_biased(builder, name, builder.residual, hidden, activation=self.activation)
        emit_biased(builder, f"{prefix}.output.dense", hidden, builder.residual, accumulate=True)
        emit_layer_norm(builder, f"{prefix}.output.LayerNorm", self.eps)

    def _emit_attention(self, builder: ProgramBuilder, name: str) -> None:
        width = builder.hidden_size
        head_dim = width // self.num_heads
        qkv, mixed = builder.buffer("qkv", 3 * width), builder.buffer("attention", width)
        parts = tuple(f"{name}.self.{which}" for which in ("query", "key", "value"))
        weights = tuple(Source(f"{part}.weight") for part in parts)
        weight = builder.linear(f"{name}.self.qkv.weight", weights, 3 * width, width)
        biases = tuple(Source(f"{part}.bias") for part in parts)
        bias = builder.vector(f"{name}.self.qkv.bias", biases, (3 * width,))
        builder.add(Linear(builder.residual, weight, qkv, bias=bias))
        builder.add(
            Attention(
                query=View(qkv.buffer, 0, width),
                key=View(qkv.buffer, width, width),
                value=View(qkv.buffer, 2 * width, width),
                out=mixed,
                cache=builder.cache(CacheLayer(self.num_heads, head_dim, head_dim)),
                num_heads=self.num_heads,
                scale=head_dim**-0.5,
                rope=None,
                causal=False,
            )
        )
        emit_biased(builder, f"{name}.output.dense", mixed, builder.residual, accumulate=True)


@dataclass(frozen=True)
class Encoder:
    """A bidirectional model.

    Attributes:
        num_positions: rows of the position table. position_offset: row of the first token (2 in RoBERTa).
        num_types: rows of the token type table. eps: of the embeddings' norm.
        head: what is made of the hidden states.
    """

    hidden_size: int
    vocab_size: int
    num_positions: int
    position_offset: int
    num_types: int
    eps: float
    layers: tuple[EncoderLayer, ...]
    head: Head

    @property
    def max_position(self) -> int:
        """Longest text in tokens."""
        return self.num_positions - self.position_offset


def lower_encoder(encoder: Encoder) -> ProgramBuilder:
    """The encoder as operations and weights."""
    builder = ProgramBuilder(encoder.hidden_size)
    table = builder.linear(WORD_EMBEDDINGS, (Source(WORD_EMBEDDINGS),), encoder.vocab_size, encoder.hidden_size)
    builder.add(Embed(table, builder.residual))
    names = [f"model.embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type")]
    positions, types = (
        builder.vector(name, (Source(name),), (rows, encoder.hidden_size))
        for name, rows in zip(names, (encoder.num_positions, encoder.num_types), strict=True)
    )
    builder.add(
        EmbedPositions(
            positions,
            builder.residual,
            num_positions=encoder.num_positions,
            offset=encoder.position_offset,
            types=types,
            num_types=encoder.num_types,
        )
    )
    emit_layer_norm(builder, "model.embeddings.LayerNorm", encoder.eps)
    for index, layer in enumerate(encoder.layers):
        layer.emit(builder, f"model.encoder.layer.{index}")
    encoder.head.emit(builder)
    return builder
