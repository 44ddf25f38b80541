"""qwen3_moe: qwen3 attention, softmax-routed experts on most layers."""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, NormConvention, SparseMoE
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import MAX_EXPERTS, Decoder, Family, read_shape
from glm_crush.models.qwen3 import qwen3_attention
from glm_crush.models.rotary import read_rotary

__all__ = ["QWEN3_MOE"]


def _describe(reader: ConfigReader) -> Decoder:
    shape = read_shape(reader)
    reader.expect("hidden_act", "silu", "silu", "swish")
    rotary = read_rotary(reader, head_dim=shape.head_dim)
    norms = NormConvention(reader.positive("rms_norm_eps", 1e-6))
    window = reader.nullable_integer("sliding_window", absent=4096)
    attention = qwen3_attention(
        shape,
        rotary,
        norms,
        bias=reader.flag("attention_bias", False),
        window=window if reader.flag("use_sliding_window", False) else None,
    )
    num_experts = reader.integer("num_experts", reader.optional_integer("num_local_experts"), maximum=MAX_EXPERTS)
    sparse = SparseMoE(
        num_experts=num_experts,
        top_k=reader.integer("num_experts_per_tok", maximum=num_experts),
        intermediate_size=reader.integer("moe_intermediate_size"),
        scoring="softmax",
        normalize=reader.flag("norm_topk_prob", False),
    )
    dense = GatedMLP(reader.integer("intermediate_size"))
    step, dense_layers = reader.integer("decoder_sparse_step", 1), reader.integers("mlp_only_layers") or ()
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=rotary.reach(shape.max_position_embeddings),
        layers=tuple(
            DecoderLayer(attention, dense if index in dense_layers or (index + 1) % step else sparse)
            for index in range(shape.num_hidden_layers)
        ),
        norms=norms,
        tie_word_embeddings=reader.flag("tie_word_embeddings", False),
    )


QWEN3_MOE = Family(
    "qwen3_moe",
    _describe,
    ("qwen3_moe",),
    ("Qwen3MoeForCausalLM",),
    ignorable_keys={"max_window_layers": "transformers applies the window to every layer of this family"},
)
