"""glm and glm4: GLM-4-9B-chat, GLM-Edge; GLM-4-0414 and GLM-Z1.

Interleaved rotary on the first half of each head (all of it in Edge), gate and up fused in one checkpoint
tensor. glm4 norms each block's output as well; its `post_attention_layernorm` is the norm before the MLP.
"""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family, read_shape
from glm_crush.models.rotary import read_rotary

__all__ = ["GLM", "GLM4"]


def _describe(
    reader: ConfigReader, *, attention_output_norm: str | None, feed_forward_output_norm: str | None
) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim, interleaved=True, default_partial=0.5)
    layer = DecoderLayer(
        GroupedQueryAttention(
            num_heads=shape.num_attention_heads,
            num_kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            scale=shape.head_dim**-0.5,
            rope=rotary.rope,
            qkv_bias=reader.flag("attention_bias", True),
        ),
        GatedMLP(reader.integer("intermediate_size"), fused=True),
        attention_output_norm=attention_output_norm,
        feed_forward_output_norm=feed_forward_output_norm,
    )
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=(layer,) * shape.num_hidden_layers,
        norms=NormConvention(reader.positive("rms_norm_eps", 1.5625e-07)),
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


def _describe_glm(reader: ConfigReader) -> Decoder:
    return _describe(reader, attention_output_norm=None, feed_forward_output_norm=None)


def _describe_glm4(reader: ConfigReader) -> Decoder:
    return _describe(
        reader,
        attention_output_norm="post_self_attn_layernorm",
        feed_forward_output_norm="post_mlp_layernorm",
    )


GLM = Family("glm", _describe_glm, ("glm",), ("GlmForCausalLM",))
GLM4 = Family("glm4", _describe_glm4, ("glm4",), ("Glm4ForCausalLM",))
