"""glm4_moe: GLM-4.5, 4.5-Air, 4.6, 4.7. Half-split rotary on half of each head, sigmoid-routed experts.

The router's correction bias steers the choice of experts only and stays float32; one shared expert is added
with weight 1; multi-token prediction layers follow the last layer in the checkpoint.
"""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention, SparseMoE
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import MAX_EXPERTS, MAX_LAYERS, Decoder, Family, read_shape
from glm_crush.models.rotary import read_rotary

__all__ = ["GLM4_MOE", "ROUTING_KEYS", "read_experts", "read_num_next_token_layers"]

ROUTING_KEYS = {
    "ep_size": "how training spread the experts",
    "seq_aux": "training only",
    "aux_loss_alpha": "training only",
}


def _describe(reader: ConfigReader) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim, default_partial=0.5)
    norms = NormConvention(reader.positive("rms_norm_eps", 1e-5))
    attention = GroupedQueryAttention(
        num_heads=shape.num_attention_heads,
        num_kv_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5,
        rope=rotary.rope,
        qkv_bias=reader.flag("attention_bias", False),
        head_norm=norms if reader.flag("use_qk_norm", False) else None,
    )
    dense = DecoderLayer(attention, GatedMLP(reader.integer("intermediate_size")))
    sparse = DecoderLayer(attention, read_experts(reader))
    num_dense = reader.integer("first_k_dense_replace", 1, minimum=0)
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=tuple(dense if index < num_dense else sparse for index in range(shape.num_hidden_layers)),
        norms=norms,
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
        next_token_layers=(sparse,) * read_num_next_token_layers(reader),
    )


def read_experts(reader: ConfigReader) -> SparseMoE:
    """The experts of glm4_moe and glm4_moe_lite (DeepSeek-V3's routing without auxiliary loss)."""
    reader.expect("scoring_func", "sigmoid", "sigmoid")
    reader.expect("topk_method", "noaux_tc", "noaux_tc")
    reader.expect("moe_layer_freq", 1, 1)
    size = reader.integer("moe_intermediate_size")
    num_experts = reader.integer("n_routed_experts", reader.optional_integer("num_local_experts"), maximum=MAX_EXPERTS)
    num_shared = reader.integer("n_shared_experts", 1, minimum=0)
    n_group = reader.integer("n_group", 1, maximum=num_experts)
    if num_experts % n_group:
        raise reader.malformed("n_group", n_group, f"a divisor of the {num_experts} experts")
    topk_group = reader.integer("topk_group", 1, maximum=n_group)
    return SparseMoE(
        num_experts=num_experts,
        top_k=reader.integer("num_experts_per_tok", maximum=topk_group * (num_experts // n_group)),
        intermediate_size=size,
        scoring="sigmoid",
        normalize=reader.flag("norm_topk_prob", True),
        scale=reader.positive("routed_scaling_factor", 1.0),
        has_router_bias=True,
        n_group=n_group,
        topk_group=topk_group,
        shared=GatedMLP(size * num_shared, name="mlp.shared_experts") if num_shared else None,
    )


def read_num_next_token_layers(reader: ConfigReader) -> int:
    """How many multi-token prediction layers the checkpoint may carry."""
    default = reader.integer("num_mtp_layers", 0, minimum=0, maximum=MAX_LAYERS)
    return reader.integer("num_nextn_predict_layers", default, minimum=0, maximum=MAX_LAYERS)


GLM4_MOE = Family("glm4_moe", _describe, ("glm4_moe",), ("Glm4MoeForCausalLM",), ignorable_keys=ROUTING_KEYS)
