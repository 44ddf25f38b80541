"""Configurations of the tiny models and the names and shapes of their tensors, written out family by family.

This is a second opinion on the name maps in `glm_crush.models`: nothing here is derived from them, and
`make oracle` loads the result into transformers without a missing or unexpected tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FAMILY_CONFIGS", "tensor_shapes"]

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

# A large epsilon and small rotary bases: in 48 positions the usual values hardly show.
_COMMON: dict[str, Any] = {
    "hidden_size": 72,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "vocab_size": 269,
    "max_position_embeddings": 48,
    "rms_norm_eps": 2e-3,
    "hidden_act": "silu",
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

_ROUTED: dict[str, Any] = {
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
}

FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 300.0},
    "mistral": {
        **_COMMON,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rope_theta": 300.0,
        "sliding_window": 11,
    },
    "qwen2": {
        **_COMMON,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "head_dim": None,
        "rope_theta": 500.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 11,
        "max_window_layers": 1,
    },
    "qwen3": {
        **_COMMON,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "rope_theta": 500.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
    "qwen3_moe": {
        **_COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "rope_theta": 500.0,
        "moe_intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
    },
    "mixtral": {
        **_COMMON,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "rope_theta": 500.0,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    "gemma3": {
        **_COMMON,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 24,
        "sliding_window": 11,
        "sliding_window_pattern": 3,
        "rope_theta": 500.0,
        "rope_local_base_freq": 40.0,
        "tie_word_embeddings": True,
    },
    "glm": {
        **_COMMON,
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 300.0,
    },
    "glm4": {
        **_COMMON,
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 300.0,
    },
    "glm4_moe": {
        **_COMMON,
        **_ROUTED,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "num_attention_heads": 12,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "use_qk_norm": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 500.0,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
    },
    "glm4_moe_lite": {
        **_COMMON,
        **_ROUTED,
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
        "num_key_value_heads": 6,
        "head_dim": None,
        "q_lora_rank": 28,
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "rope_theta": 500.0,
        "rope_interleave": True,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.8,
        "attention_bias": False,
    },
}


def tensor_shapes(config: Config) -> Shapes:
    """Names and shapes of all tensors of a tiny configuration."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for index in range(config["num_hidden_layers"]):
        shapes |= _layer(config, index)
    for index in range(config.get("num_nextn_predict_layers", 0)):
        shapes |= _next_token_layer(config, config["num_hidden_layers"] + index)
    return shapes


def _next_token_layer(config: Config, index: int) -> Shapes:
    hidden, prefix = config["hidden_size"], f"model.layers.{index}"
    return {
        f"{prefix}.enorm.weight": (hidden,),
        f"{prefix}.hnorm.weight": (hidden,),
        f"{prefix}.eh_proj.weight": (hidden, 2 * hidden),
        f"{prefix}.shared_head.norm.weight": (hidden,),
        f"{prefix}.shared_head.head.weight": (config["vocab_size"], hidden),
        f"{prefix}.embed_tokens.weight": (config["vocab_size"], hidden),
        **_layer(config, index),
    }


def _layer(config: Config, index: int) -> Shapes:
    prefix, hidden = f"model.layers.{index}", config["hidden_size"]
    norms = {
        "glm4": ("input", "post_attention", "post_self_attn", "post_mlp"),
        "gemma3_text": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    }.get(config["model_type"], ("input", "post_attention"))
    shapes: Shapes = {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in norms}
    attention = _latent_attention(config) if config["model_type"] == "glm4_moe_lite" else _attention(config)
    shapes |= {f"{prefix}.self_attn.{name}": shape for name, shape in attention.items()}
    return shapes | {f"{prefix}.{name}": shape for name, shape in _feed_forward(config, index).items()}


def _attention(config: Config) -> Shapes:
    kind, hidden, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    query, kv = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
    shapes: Shapes = {
        "q_proj.weight": (query, hidden),
        "k_proj.weight": (kv, hidden),
        "v_proj.weight": (kv, hidden),
        "o_proj.weight": (hidden, query),
    }
    if kind == "qwen2" or config.get("attention_bias"):
        shapes |= {"q_proj.bias": (query,), "k_proj.bias": (kv,), "v_proj.bias": (kv,)}
        if kind in ("llama", "qwen3", "qwen3_moe", "gemma3_text"):
            shapes["o_proj.bias"] = (hidden,)
    if kind in ("qwen3", "qwen3_moe", "gemma3_text") or config.get("use_qk_norm"):
        shapes |= {"q_norm.weight": (head_dim,), "k_norm.weight": (head_dim,)}
    return shapes


def _latent_attention(config: Config) -> Shapes:
    hidden, heads, latent = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    shapes: Shapes = {
        "kv_a_proj_with_mqa.weight": (latent + rope, hidden),
        "kv_a_layernorm.weight": (latent,),
        "kv_b_proj.weight": (heads * (nope + value), latent),
        "o_proj.weight": (hidden, heads * value),
    }
    if config["q_lora_rank"] is not None:
        rank = config["q_lora_rank"]
        shapes |= {
            "q_a_proj.weight": (rank, hidden),
            "q_a_layernorm.weight": (rank,),
            "q_b_proj.weight": (heads * (nope + rope), rank),
        }
    else:
        shapes["q_proj.weight"] = (heads * (nope + rope), hidden)
    if config["attention_bias"]:
        shapes |= {"kv_a_proj_with_mqa.bias": (latent + rope,), "o_proj.bias": (hidden,)}
        if config["q_lora_rank"] is not None:
            shapes["q_a_proj.bias"] = (config["q_lora_rank"],)
    return shapes


def _feed_forward(config: Config, index: int) -> Shapes:
    kind, hidden = config["model_type"], config["hidden_size"]
    if kind in ("glm", "glm4"):
        size = config["intermediate_size"]
        return {"mlp.gate_up_proj.weight": (2 * size, hidden), "mlp.down_proj.weight": (hidden, size)}
    if kind == "mixtral":
        experts, size = config["num_local_experts"], config["intermediate_size"]
        shapes: Shapes = {"block_sparse_moe.gate.weight": (experts, hidden)}
        for expert in range(experts):
            prefix = f"block_sparse_moe.experts.{expert}"
            shapes |= {f"{prefix}.w1.weight": (size, hidden), f"{prefix}.w3.weight": (size, hidden)}
            shapes[f"{prefix}.w2.weight"] = (hidden, size)
        return shapes
    dense = index in config.get("mlp_only_layers", ()) or (index + 1) % config.get("decoder_sparse_step", 1)
    if kind == "qwen3_moe" and not dense:
        return _experts(config, config["num_experts"])
    if kind in ("glm4_moe", "glm4_moe_lite") and index >= config.get("first_k_dense_replace", 1):
        experts = config["n_routed_experts"]
        shared = _gated("mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"], hidden)
        return {**_experts(config, experts), **shared, "mlp.gate.e_score_correction_bias": (experts,)}
    return _gated("mlp", config["intermediate_size"], hidden)


def _experts(config: Config, experts: int) -> Shapes:
    hidden, size = config["hidden_size"], config["moe_intermediate_size"]
    shapes: Shapes = {"mlp.gate.weight": (experts, hidden)}
    for expert in range(experts):
        shapes |= _gated(f"mlp.experts.{expert}", size, hidden)
    return shapes


def _gated(prefix: str, size: int, hidden: int) -> Shapes:
    return {
        f"{prefix}.gate_proj.weight": (size, hidden),
        f"{prefix}.up_proj.weight": (size, hidden),
        f"{prefix}.down_proj.weight": (hidden, size),
    }
