"""The shapes that the figures speak of: config.json values and their counts of weights.

`smollm2-135m` is the default model; `dense-1.5b` and `glm4moe-small` are made with random weights
(`random_model.py`): one is bound by memory, the other has GLM-4.6's architecture at a size that fits anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

_COMMON: Config = {
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "use_cache": True,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

SHAPES: dict[str, Config] = {
    "smollm2-135m": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "dense-1.5b": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 100000.0,
    },
    "glm4moe-small": _COMMON
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": True,
        "attention_bias": True,
        "intermediate_size": 3072,
        "moe_intermediate_size": 512,
        "n_routed_experts": 64,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "num_nextn_predict_layers": 0,
        "rope_theta": 1000000.0,
    },
}

BYTES_PER_CACHED = {"bf16": 2.0, "int8": 1 + 2 / 64}
BITS_PER_WEIGHT = {"q4": 4.5, "q8": 8.5, "bf16": 16.0, "f32": 32.0}


@dataclass(frozen=True)
class Cost:
    """What one token costs: weights its matrix products read, and cache bytes per position of context."""

    layer_weights: int
    """Weights of the layers that one token multiplies (routed experts: only those chosen)."""
    head_weights: int
    """Weights of the output projection."""
    cache_numbers_per_position: int
    """Keys and values that one position of context adds to a decode step."""

    def decode_bytes(self, weight_format: str, depth: int, kv_dtype: str = "bf16") -> float:
        """Bytes that a decode step of one stream must read from memory."""
        weights = (self.layer_weights + self.head_weights) * BITS_PER_WEIGHT[weight_format] / 8
        return weights + self.cache_numbers_per_position * BYTES_PER_CACHED[kv_dtype] * depth

    def prefill_operations(self) -> float:
        """Multiplications and additions of the matrix products for one prompt token (attention not counted)."""
        return 2.0 * self.layer_weights


def cost(shape: str) -> Cost:
    """The cost of one token of a shape."""
    c = SHAPES[shape]
    hidden, head = c["hidden_size"], c["head_dim"]
    query, key_value = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    layers = c["num_hidden_layers"]
    weights = layers * (2 * hidden * query + 2 * hidden * key_value)
    sparse = layers - c["first_k_dense_replace"] if "n_routed_experts" in c else 0
    weights += (layers - sparse) * 3 * hidden * c["intermediate_size"]
    if sparse:
        experts = c["num_experts_per_tok"] + c["n_shared_experts"]
        weights += sparse * 3 * hidden * c["moe_intermediate_size"] * experts
    return Cost(weights, hidden * c["vocab_size"], layers * 2 * key_value)
