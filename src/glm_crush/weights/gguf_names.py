"""GGUF tensor names to Hugging Face names, per architecture.

The same GGUF name means different things in different architectures: `post_attention_norm` is the norm before the MLP
in glm4moe and the norm of the attention's output in glm4 and gemma3. Names: `gguf-py/gguf/constants.py` of llama.cpp.
Above: `weights.gguf_checkpoint`. This module reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["ARCHITECTURES", "Architecture", "TensorName", "parse_name"]

Kind = Literal["plain", "experts", "fused_experts", "qkv", "k_b", "v_b", "skip"]

_ATTENTION: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_MLP: Final = {
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS: Final = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "ffn_gate_up_exps": "mlp.experts.{}",
}
_SHARED_EXPERTS: Final = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
_NEXTN: Final = {
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.embed_tokens": "embed_tokens",
    "nextn.shared_head_head": "shared_head.head",
    "nextn.shared_head_norm": "shared_head.norm",
}
_LATENT_ATTENTION: Final = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.kv_b_proj",
    "attn_v_b": "self_attn.kv_b_proj",
}
_FUSED_MLP: Final = {"attn_qkv": "self_attn.{}_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
_GLM4_NORMS: Final = {
    "post_attention_norm": "post_self_attn_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_GEMMA3_NORMS: Final = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GLOBAL: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_SPECIAL: Final[Mapping[str, Kind]] = {
    "ffn_gate_exps": "experts",
    "ffn_up_exps": "experts",
    "ffn_down_exps": "experts",
    "ffn_gate_up_exps": "fused_experts",
    "attn_qkv": "qkv",
    "attn_k_b": "k_b",
    "attn_v_b": "v_b",
}


@dataclass(frozen=True)
class Architecture:
    """How one `general.architecture` maps.

    Attributes:
        model_type: the Hugging Face model type. class_name: its causal language model.
        blocks: names inside a layer.
        permuted: the converter reordered q and k rows from half-split to interleaved rotary pairs.
        norm_offset: what the converter added to norm weights.
    """

    model_type: str
    class_name: str
    blocks: Mapping[str, str] = field(repr=False)
    permuted: bool = False
    norm_offset: float = 0.0


@dataclass(frozen=True)
class TensorName:
    """What a GGUF name means.

    Attributes:
        name: Hugging Face name; for experts with `{}` in place of the expert, for qkv in place of the projection.
        kind: how the data has to be taken apart. layer: index, or None. part: GGUF name within the layer.
    """

    name: str
    kind: Kind
    layer: int | None
    part: str


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture("llama", "LlamaForCausalLM", {**_ATTENTION, **_MLP, **_EXPERTS}, permuted=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", {**_ATTENTION, **_MLP}),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", {**_ATTENTION, **_MLP}),
    "qwen3moe": Architecture("qwen3_moe", "Qwen3MoeForCausalLM", {**_ATTENTION, **_MLP, **_EXPERTS}),
    "gemma3": Architecture(
        "gemma3_text", "Gemma3ForCausalLM", {**_ATTENTION, **_MLP, **_GEMMA3_NORMS}, norm_offset=1.0
    ),
    "chatglm": Architecture("glm", "GlmForCausalLM", {**_ATTENTION, "ffn_norm": _MLP["ffn_norm"], **_FUSED_MLP}),
    "glm4": Architecture("glm4", "Glm4ForCausalLM", {**_ATTENTION, **_FUSED_MLP, **_GLM4_NORMS}),
    "glm4moe": Architecture(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        {
            **_ATTENTION,
            **_MLP,
            **_EXPERTS,
            **_SHARED_EXPERTS,
            **_NEXTN,
            "post_attention_norm": "post_attention_layernorm",
        },
    ),
    "deepseek2": Architecture(
        "glm4_moe_lite",
        "Glm4MoeLiteForCausalLM",
        {**_ATTENTION, **_LATENT_ATTENTION, **_MLP, **_EXPERTS, **_SHARED_EXPERTS, **_NEXTN},
    ),
}


def parse_name(name: str, architecture: Architecture) -> TensorName | None:
    """The meaning of a GGUF tensor name, or None when the architecture has no such tensor."""
    if name in _GLOBAL:
        return TensorName(_GLOBAL[name], "plain", None, name)
    if name == "rope_freqs.weight":  # its content is in the configuration
        return TensorName(name, "skip", None, name)
    match = re.fullmatch(r"blk\.(\d{1,5})\.(.+)\.(weight|bias)", name)
    if match is None:
        return None
    layer, part, suffix = int(match[1]), match[2], match[3]
    prefix = f"model.layers.{layer}."
    if part == "exp_probs_b" and "ffn_gate_inp" in architecture.blocks:
        return TensorName(f"{prefix}mlp.gate.e_score_correction_bias", "plain", layer, part)
    single = re.fullmatch(r"(ffn_(?:gate|up|down))\.(\d{1,4})", part)  # files of before May 2024
    if single is not None and f"{single[1]}_exps" in architecture.blocks:
        expert = architecture.blocks[f"{single[1]}_exps"].format(int(single[2]))
        return TensorName(f"{prefix}{expert}.{suffix}", "plain", layer, part)
    if part not in architecture.blocks:
        return None
    return TensorName(f"{prefix}{architecture.blocks[part]}.{suffix}", _SPECIAL.get(part, "plain"), layer, part)
