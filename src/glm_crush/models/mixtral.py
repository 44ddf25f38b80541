"""mixtral: llama attention, softmax-routed experts whose weights are normalised to one."""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, ExpertNames, GroupedQueryAttention, NormConvention, SparseMoE
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import MAX_EXPERTS, Decoder, Family, read_shape
from glm_crush.models.rotary import read_rotary

__all__ = ["MIXTRAL"]


def _describe(reader: ConfigReader) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim, default_theta=1e6)
    attention = GroupedQueryAttention(
        num_heads=shape.num_attention_heads,
        num_kv_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5,
        rope=rotary.rope,
        window=reader.optional_integer("sliding_window"),
    )
    num_experts = reader.integer("num_local_experts", reader.optional_integer("num_experts"), maximum=MAX_EXPERTS)
    experts = SparseMoE(
        num_experts=num_experts,
        top_k=reader.integer("num_experts_per_tok", 2, maximum=num_experts),
        intermediate_size=reader.integer("intermediate_size"),
        scoring="softmax",
        normalize=True,
        names=ExpertNames("block_sparse_moe", gate="w1", up="w3", down="w2"),
    )
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=(DecoderLayer(attention, experts),) * shape.num_hidden_layers,
        norms=NormConvention(reader.positive("rms_norm_eps", 1e-5)),
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


MIXTRAL = Family("mixtral", _describe, ("mixtral",), ("MixtralForCausalLM",))
