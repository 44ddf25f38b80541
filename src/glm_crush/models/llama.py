"""llama: Llama 2 and 3, SmolLM2, Mistral. Pre-norm, half-split rotary, SiLU-gated MLP."""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family, read_shape
from glm_crush.models.rotary import read_rotary

__all__ = ["LLAMA", "MISTRAL"]


def _describe_llama(reader: ConfigReader) -> Decoder:
    reader.expect("mlp_bias", False, False)
    reader.expect("rope_interleaved", False, False)
    return _describe(reader, bias=reader.flag("attention_bias", False), window=None)


def _describe_mistral(reader: ConfigReader) -> Decoder:
    return _describe(reader, bias=False, window=reader.nullable_integer("sliding_window", absent=4096))


def _describe(reader: ConfigReader, *, bias: bool, window: int | None) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim)
    layer = DecoderLayer(
        GroupedQueryAttention(
            num_heads=shape.num_attention_heads,
            num_kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            scale=shape.head_dim**-0.5,
            rope=rotary.rope,
            window=window,
            qkv_bias=bias,
            output_bias=bias,
        ),
        GatedMLP(reader.integer("intermediate_size")),
    )
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=(layer,) * shape.num_hidden_layers,
        norms=NormConvention(reader.positive("rms_norm_eps", 1e-6)),
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


LLAMA = Family("llama", _describe_llama, ("llama",), ("LlamaForCausalLM",))
MISTRAL = Family("mistral", _describe_mistral, ("mistral",), ("MistralForCausalLM",))
