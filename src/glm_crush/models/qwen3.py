"""qwen3: as llama, with an RMS norm on every query and key head before rotation."""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family, Shape, read_shape
from glm_crush.models.qwen2 import read_upper_windows
from glm_crush.models.rotary import RotaryConfig, read_rotary

__all__ = ["QWEN3", "qwen3_attention"]


def _describe(reader: ConfigReader) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim)
    norms = NormConvention(reader.positive("rms_norm_eps", 1e-6))
    bias = reader.flag("attention_bias", False)
    feed_forward = GatedMLP(reader.integer("intermediate_size"))
    windows = read_upper_windows(reader, shape)
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=tuple(
            DecoderLayer(qwen3_attention(shape, rotary, norms, bias=bias, window=window), feed_forward)
            for window in windows
        ),
        norms=norms,
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


def qwen3_attention(
    shape: Shape, rotary: RotaryConfig, norms: NormConvention, *, bias: bool, window: int | None
) -> GroupedQueryAttention:
    """The attention of qwen3 and qwen3_moe."""
    return GroupedQueryAttention(
        num_heads=shape.num_attention_heads,
        num_kv_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5,
        rope=rotary.rope,
        window=window,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norms,
    )


QWEN3 = Family("qwen3", _describe, ("qwen3",), ("Qwen3ForCausalLM",))
