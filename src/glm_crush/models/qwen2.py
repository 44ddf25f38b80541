"""qwen2: Qwen 2 and 2.5. As llama, with biases on q, k, v and optionally a window on the upper layers."""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family, Shape, layer_windows, read_shape
from glm_crush.models.rotary import read_rotary

__all__ = ["QWEN2", "read_upper_windows"]


def _describe(reader: ConfigReader) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim)
    feed_forward = GatedMLP(reader.integer("intermediate_size"))
    attentions = [
        GroupedQueryAttention(
            num_heads=shape.num_attention_heads,
            num_kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            scale=shape.head_dim**-0.5,
            rope=rotary.rope,
            window=window,
            qkv_bias=True,
        )
        for window in read_upper_windows(reader, shape)
    ]
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=tuple(DecoderLayer(attention, feed_forward) for attention in attentions),
        norms=NormConvention(reader.positive("rms_norm_eps", 1e-6)),
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


def read_upper_windows(reader: ConfigReader, shape: Shape) -> tuple[int | None, ...]:
    """Window of each layer where `use_sliding_window` gives one to layers from `max_window_layers` on."""
    enabled = reader.flag("use_sliding_window", False)
    window = reader.nullable_integer("sliding_window", absent=4096)
    first = reader.integer("max_window_layers", 28, minimum=0)
    count = shape.num_hidden_layers
    return layer_windows(reader, window if enabled else None, tuple(index >= first for index in range(count)))


QWEN2 = Family("qwen2", _describe, ("qwen2",), ("Qwen2ForCausalLM",))
