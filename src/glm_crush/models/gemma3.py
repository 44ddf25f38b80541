"""gemma3 (text): windowed layers with a rotary base of their own, four norms a layer, scaled embeddings.

Norm weights are stored as w and applied as 1 + w; blocks are normed before and after; GELU gates the MLP.
`Gemma3ForConditionalGeneration` checkpoints run with their text part.
"""

from __future__ import annotations

from glm_crush.models.blocks import DecoderLayer, GatedMLP, GroupedQueryAttention, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family, layer_windows, read_shape
from glm_crush.models.rotary import RotaryConfig, rotary_frequencies

__all__ = ["GEMMA3"]

# Published files leave out what transformers' Gemma3TextConfig has by default.
_DEFAULTS = {
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
}


def _describe(reader: ConfigReader) -> Decoder:
    text = reader.section("text_config")
    if text is None:
        return _describe_text(reader, tied=reader.flag("tie_word_embeddings", True))
    tied = reader.flag("tie_word_embeddings", True)
    decoder = _describe_text(text, tied=text.flag("tie_word_embeddings", tied))
    text.finish()
    return decoder


def _describe_text(reader: ConfigReader, *, tied: bool) -> Decoder:
    shape = read_shape(reader, _DEFAULTS)
    reader.expect("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    reader.expect("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    reader.expect("use_bidirectional_attention", False, False)
    reader.expect("attn_logit_softcapping", 0.0, 0.0)
    bias = reader.flag("attention_bias", False)
    norms = NormConvention(reader.positive("rms_norm_eps", 1e-6), weight_offset=1.0)
    full, local = _rotaries(reader, shape.head_dim)
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", 6))
    sliding = tuple(bool((index + 1) % pattern) for index in range(shape.num_hidden_layers))
    windows = layer_windows(reader, reader.integer("sliding_window", 4096), sliding)
    feed_forward = GatedMLP(reader.integer("intermediate_size", 9216), activation="gelu_gate")
    scale = reader.positive("query_pre_attn_scalar", 256) ** -0.5
    attentions = [
        GroupedQueryAttention(
            num_heads=shape.num_attention_heads,
            num_kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            scale=scale,
            rope=(full if window is None else local).rope,
            window=window,
            qkv_bias=bias,
            output_bias=bias,
            head_norm=norms,
        )
        for window in windows
    ]
    return Decoder(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_position=full.reach(shape.max_position_embeddings),
        layers=tuple(_layer(attention, feed_forward) for attention in attentions),
        norms=norms,
        tie_word_embeddings=tied,
        embed_scale=shape.hidden_size**0.5,
        softcap=reader.optional_number("final_logit_softcapping"),
    )


def _layer(attention: GroupedQueryAttention, feed_forward: GatedMLP) -> DecoderLayer:
    return DecoderLayer(
        attention,
        feed_forward,
        attention_output_norm="post_attention_layernorm",
        feed_forward_norm="pre_feedforward_layernorm",
        feed_forward_output_norm="post_feedforward_layernorm",
    )


def _rotaries(reader: ConfigReader, head_dim: int) -> tuple[RotaryConfig, RotaryConfig]:
    """Rotary embeddings of full and of windowed layers; a scaling in the older form is for the full ones."""
    full_theta = reader.positive("rope_theta", 1e6)
    local_theta = reader.positive("rope_local_base_freq", 10000.0)
    scaling = reader.section("rope_scaling")
    both = reader.section("rope_parameters")
    full = scaling if both is None else both.section("full_attention")
    local = None if both is None else both.section("sliding_attention")
    if both is not None:
        both.finish()
    return (
        rotary_frequencies(full, theta=full_theta, partial=1.0, head_dim=head_dim),
        rotary_frequencies(local, theta=local_theta, partial=1.0, head_dim=head_dim),
    )


GEMMA3 = Family(
    "gemma3",
    _describe,
    ("gemma3_text", "gemma3"),
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    ignorable_keys={
        "vision_config": "images are not run",
        "mm_tokens_per_image": "images are not run",
        "image_token_index": "images are not run",
        "boi_token_index": "images are not run",
        "eoi_token_index": "images are not run",
    },
    prefixes=("model.", "language_model.model.", "model.language_model."),
    ignorable_tensors=(
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
)
