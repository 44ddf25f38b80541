"""The variants of each family whose logits are committed in `tests/golden/logits`.

`python -m tests.oracle.write_golden` writes the files with transformers; `make test` compares the reference
executor with them; `make oracle` compares both with transformers as it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CASES", "GoldenCase", "golden_logits", "golden_path", "golden_token_ids"]

NUM_TOKENS = 48  # max_position_embeddings of the tiny models: to the very end of the context


@dataclass(frozen=True)
class GoldenCase:
    """One tiny model: a family and what differs from its usual configuration."""

    name: str
    family: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


_LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 16}
_WINDOWS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

CASES: tuple[GoldenCase, ...] = (
    GoldenCase("llama", "llama"),
    GoldenCase("llama_tied_biased", "llama", {"tie_word_embeddings": True, "attention_bias": True}),
    GoldenCase("llama_without_head_dim", "llama", {"head_dim": None, "num_key_value_heads": None}),
    GoldenCase("llama_llama3_rope", "llama", {"rope_scaling": {**_LLAMA3, "original_max_position_embeddings": 20}}),
    GoldenCase("llama_linear_rope", "llama", {"rope_scaling": {"type": "linear", "factor": 2.5}}),
    GoldenCase("llama_yarn_rope", "llama", {"rope_scaling": _YARN}),
    GoldenCase(
        "llama_rope_parameters",
        "llama",
        {"rope_theta": None, "rope_parameters": {**_YARN, "rope_theta": 200.0, "beta_fast": 4.0, "truncate": False}},
    ),
    GoldenCase("mistral", "mistral"),
    GoldenCase("qwen2", "qwen2"),
    GoldenCase("qwen2_window", "qwen2", {"use_sliding_window": True, "tie_word_embeddings": False}),
    GoldenCase("qwen2_yarn_rope", "qwen2", {"rope_scaling": {**_YARN, "attention_factor": 1.3}}),
    GoldenCase("qwen3", "qwen3"),
    GoldenCase("qwen3_biased", "qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
    GoldenCase("qwen3_moe", "qwen3_moe"),
    GoldenCase(
        "qwen3_moe_unnormalised",
        "qwen3_moe",
        {"norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": []},
    ),
    GoldenCase("mixtral", "mixtral"),
    GoldenCase("mixtral_window", "mixtral", {"sliding_window": 7}),
    GoldenCase("gemma3", "gemma3"),
    GoldenCase("gemma3_linear_rope", "gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    GoldenCase(
        "gemma3_layer_types",
        "gemma3",
        {
            "layer_types": _WINDOWS,
            "sliding_window_pattern": None,
            "rope_theta": None,
            "rope_local_base_freq": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 60.0},
            },
            "final_logit_softcapping": 2.0,
        },
    ),
    GoldenCase("glm", "glm"),
    GoldenCase("glm_edge", "glm", {"attention_bias": False, "partial_rotary_factor": 1.0, "tie_word_embeddings": True}),
    GoldenCase("glm4", "glm4"),
    GoldenCase("glm4_unbiased", "glm4", {"attention_bias": False}, seed=1),
    GoldenCase("glm4_moe", "glm4_moe"),
    GoldenCase("glm4_moe_air", "glm4_moe", {"use_qk_norm": False, "routed_scaling_factor": 1.0}),
    GoldenCase("glm4_moe_groups", "glm4_moe", {"n_group": 4, "topk_group": 2, "n_shared_experts": 2}),
    GoldenCase(
        "glm4_moe_unnormalised",
        "glm4_moe",
        {
            "norm_topk_prob": False,
            "rope_theta": None,
            "partial_rotary_factor": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    ),
    GoldenCase("glm4_moe_lite", "glm4_moe_lite"),
    GoldenCase("glm4_moe_lite_direct_query", "glm4_moe_lite", {"q_lora_rank": None, "rope_interleave": False}),
    GoldenCase("glm4_moe_lite_biased", "glm4_moe_lite", {"attention_bias": True, "n_group": 2}),
    GoldenCase(
        "glm4_moe_lite_yarn_rope",
        "glm4_moe_lite",
        {"rope_scaling": {**_YARN, "mscale": 0.7, "mscale_all_dim": 1.2}, "first_k_dense_replace": None},
    ),
)


def golden_path(case: GoldenCase) -> Path:
    """Where the logits of a case are."""
    return Path(__file__).parent / "logits" / f"{case.name}.npy"


def golden_token_ids(case: GoldenCase) -> list[int]:
    """The tokens of a case: as many as the context holds."""
    return [int(token) for token in np.random.RandomState(1000 + case.seed).randint(0, 269, NUM_TOKENS)]


def golden_logits(case: GoldenCase) -> np.ndarray:
    """The committed logits of a case, float32 `[48, 269]`."""
    logits: np.ndarray = np.load(golden_path(case), allow_pickle=False)
    return logits
