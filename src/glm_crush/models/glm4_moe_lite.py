"""glm4_moe_lite: GLM-4.7-Flash. DeepSeek-V3's latent attention, otherwise glm4_moe."""

from __future__ import annotations

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.blocks import DecoderLayer, GatedMLP, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, Decoder, Family
from glm_crush.models.glm4_moe import ROUTING_KEYS, read_experts, read_num_next_token_layers
from glm_crush.models.latent_attention import LatentAttention
from glm_crush.models.rotary import read_rotary

__all__ = ["GLM4_MOE_LITE"]


def _describe(reader: ConfigReader) -> Decoder:
    reader.expect("hidden_act", "silu", "silu", "swish")
    norms = NormConvention(reader.positive("rms_norm_eps", 1e-5))
    attention, reach = _attention(reader)
    dense = DecoderLayer(attention, GatedMLP(reader.integer("intermediate_size")))
    sparse = DecoderLayer(attention, read_experts(reader))
    count = reader.integer("num_hidden_layers", maximum=MAX_LAYERS)
    return Decoder(
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        max_position=reach,
        layers=tuple(sparse if is_sparse else dense for is_sparse in _sparse_layers(reader, count)),
        norms=norms,
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
        next_token_layers=(sparse,) * read_num_next_token_layers(reader),
    )


def _attention(reader: ConfigReader) -> tuple[LatentAttention, int]:
    """The attention block, and how many positions its rotary embedding reaches."""
    heads = reader.integer("num_attention_heads", maximum=MAX_HEADS)
    reader.expect("num_key_value_heads", heads, heads)
    nope = reader.integer("qk_nope_head_dim", maximum=MAX_HEAD_DIM)
    rope = reader.integer("qk_rope_head_dim", maximum=MAX_HEAD_DIM)
    reader.expect("head_dim", rope, rope)
    reader.expect("qk_head_dim", nope + rope, nope + rope)
    rotary = read_rotary(reader, head_dim=rope, interleaved=reader.flag("rope_interleave", True))
    if rotary.rope.rotary_dim != rope:
        raise UnsupportedModelError(f"{reader.where}: partial_rotary_factor must be 1.0 with latent attention")
    q_lora_rank, bias = reader.nullable_integer("q_lora_rank", absent=768), reader.flag("attention_bias", False)
    if bias and q_lora_rank is None:
        raise UnsupportedModelError(f"{reader.where}: attention_bias without q_lora_rank is not supported")
    attention = LatentAttention(
        num_heads=heads,
        q_lora_rank=q_lora_rank,
        kv_lora_rank=reader.integer("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=reader.integer("v_head_dim"),
        scale=(nope + rope) ** -0.5 * rotary.score_factor,
        rope=rotary.rope,
        norms=NormConvention(1e-6),  # transformers gives the latent norms its default, not rms_norm_eps
        bias=bias,
    )
    return attention, rotary.reach(reader.integer("max_position_embeddings"))


def _sparse_layers(reader: ConfigReader, count: int) -> tuple[bool, ...]:
    """Which layers have experts: `mlp_layer_types`, or all but the first `first_k_dense_replace`."""
    num_dense = reader.integer("first_k_dense_replace", 1, minimum=0)
    kinds = reader.texts("mlp_layer_types")
    if kinds is None:
        return tuple(index >= num_dense for index in range(count))
    if len(kinds) != count or any(kind not in ("dense", "sparse") for kind in kinds):
        raise CheckpointError(f"{reader.where}: mlp_layer_types must name {count} layers, each dense or sparse")
    return tuple(kind == "sparse" for kind in kinds)


GLM4_MOE_LITE = Family(
    "glm4_moe_lite", _describe, ("glm4_moe_lite",), ("Glm4MoeLiteForCausalLM",), ignorable_keys=ROUTING_KEYS
)
