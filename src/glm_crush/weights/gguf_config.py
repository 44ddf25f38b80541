"""GGUF metadata to the config.json and generation_config.json that Hugging Face would have.

Keys: `gguf-py/gguf/constants.py`; values as llama.cpp's converters write them. Above: `weights.gguf_checkpoint`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.gguf_metadata import GgufMetadata
from glm_crush.weights.gguf_names import ARCHITECTURES

__all__ = ["generation_config_from_gguf", "model_config_from_gguf"]

Float32 = npt.NDArray[np.float32]
Config = dict[str, Any]

_SOFTMAX, _SIGMOID = 1, 2
_FLASH_BLOCKS, _FLASH_VOCAB = 47, 154_880  # GLM-4.7-Flash, whose early files recorded softmax
_GEMMA3_27B_BLOCKS: Final = 62
# Tokens that end a turn, whatever the file says of eos.
_TURN_ENDS: Final = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>")
_GLM_TURN_ENDS: Final = ("<|endoftext|>", "<|user|>", "<|observation|>")


def model_config_from_gguf(
    path: Path, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: Float32 | None
) -> Config:
    """The config.json of a GGUF file.

    Args:
        path: for messages.
        metadata: its keys.
        shapes: shape of each tensor, by GGUF name.
        rope_factors: content of `rope_freqs.weight`, which Llama 3 uses instead of keys.

    Raises:
        UnsupportedModelError: the architecture or a key is not one that is run.
        CheckpointError: a key or the embedding is missing or malformed.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{path}: general.architecture is {str(name)[:80]!r}; supported: {', '.join(ARCHITECTURES)}"
        )
    reader = GgufMetadata(path, metadata, name)
    if "token_embd.weight" not in shapes or len(shapes["token_embd.weight"]) != 2:
        raise CheckpointError(f"{path} has no matrix token_embd.weight")
    config: Config = {
        "model_type": ARCHITECTURES[name].model_type,
        "architectures": [ARCHITECTURES[name].class_name],
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": reader.integer("embedding_length"),
        "num_hidden_layers": reader.integer("block_count"),
        "num_attention_heads": reader.integer("attention.head_count"),
        "intermediate_size": reader.integer("feed_forward_length"),
        "max_position_embeddings": reader.integer("context_length"),
        "rms_norm_eps": reader.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": reader.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if config["num_attention_heads"] == 0:
        raise CheckpointError(f"{path}: {name}.attention.head_count is 0")
    reader.expect("attention.causal", True)
    _FAMILIES[name](reader, config, shapes)
    _add_rope_scaling(path, reader, config, rope_factors)
    reader.finish()
    return config


def generation_config_from_gguf(metadata: Mapping[str, Any]) -> Config:
    """Every token id that ends a turn, and the sampling values that the file recommends."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    ids = [value for key in keys if type(value := metadata.get(key)) is int]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        is_glm = str(metadata.get("general.architecture")) in ("chatglm", "glm4", "glm4moe") or (
            metadata.get("tokenizer.ggml.pre") in ("glm4", "chatglm-bpe")
        )
        wanted = _GLM_TURN_ENDS if is_glm else _TURN_ENDS
        ids += [index for index, token in enumerate(tokens) if token in wanted]
    config: Config = {"eos_token_id": sorted(set(ids))} if ids else {}
    for key, name in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p")):
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)) and math.isfinite(value):
            config[name] = value
    return config


def _read_attention(reader: GgufMetadata, config: Config) -> None:
    """Grouped-query attention: head counts, head width and the rotated share of it."""
    heads = config["num_attention_heads"]
    config["num_key_value_heads"] = reader.integer("attention.head_count_kv", heads)
    head_dim = reader.integer("attention.key_length", config["hidden_size"] // heads)
    config["head_dim"] = head_dim
    rotary = reader.integer("rope.dimension_count", head_dim)
    if rotary != head_dim and head_dim:
        config["partial_rotary_factor"] = rotary / head_dim


def _llama(reader: GgufMetadata, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _read_attention(reader, config)
    if reader.has("attention.sliding_window"):
        config["sliding_window"] = reader.integer("attention.sliding_window")
    num_experts = reader.integer("expert_count", 0)
    if num_experts:
        config["model_type"], config["architectures"] = "mixtral", ["MixtralForCausalLM"]
        config["num_local_experts"] = num_experts
        config["num_experts_per_tok"] = reader.integer("expert_used_count")
        reader.expect("expert_weights_scale", 0.0, 1.0)
        return
    reader.expect("expert_used_count", 0)
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes


def _qwen2(reader: GgufMetadata, config: Config, _: Mapping[str, tuple[int, ...]]) -> None:
    _read_attention(reader, config)


def _qwen3(reader: GgufMetadata, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _read_attention(reader, config)
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes


def _qwen3moe(reader: GgufMetadata, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _qwen3(reader, config, shapes)
    reader.expect("expert_gating_func", 0, _SOFTMAX)
    reader.expect("expert_shared_count", 0)
    reader.expect("expert_weights_scale", 0.0, 1.0)
    config["num_experts"] = reader.integer("expert_count")
    config["num_experts_per_tok"] = reader.integer("expert_used_count")
    config["moe_intermediate_size"] = reader.integer("expert_feed_forward_length")
    config["norm_topk_prob"] = reader.flag("expert_weights_norm", True)  # llama.cpp always normalises


def _gemma3(reader: GgufMetadata, config: Config, _: Mapping[str, tuple[int, ...]]) -> None:
    _read_attention(reader, config)
    is_27b = config["num_hidden_layers"] == _GEMMA3_27B_BLOCKS
    head_dim = config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    config["query_pre_attn_scalar"] = head_dim
    config["rope_theta"] = reader.number("rope.freq_base", 1_000_000.0)
    config["rope_local_base_freq"] = reader.number("rope.freq_base_swa", 10000.0)
    window = reader.integer("attention.sliding_window", 0)
    pattern = reader.integer("attention.sliding_window_pattern", 6)
    config["sliding_window"] = window or None
    config["sliding_window_pattern"] = pattern if window else 1
    if reader.has("final_logit_softcapping"):
        config["final_logit_softcapping"] = reader.number("final_logit_softcapping")


def _glm(reader: GgufMetadata, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _read_attention(reader, config)
    config.setdefault("partial_rotary_factor", 1.0)
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes


def _glm4moe(reader: GgufMetadata, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    _glm(reader, config, shapes)
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in shapes
    reader.expect("expert_gating_func", 0, _SIGMOID)
    _read_sigmoid_experts(reader, config, normalize=True)
    _split_off_next_token_layers(reader, config)


def _deepseek2(reader: GgufMetadata, config: Config, _: Mapping[str, tuple[int, ...]]) -> None:
    is_flash = config["num_hidden_layers"] == _FLASH_BLOCKS and config["vocab_size"] == _FLASH_VOCAB
    reader.expect("expert_gating_func", _SIGMOID, *((0, _SOFTMAX) if is_flash else ()))
    if not is_flash and not reader.has("expert_gating_func"):
        raise UnsupportedModelError(
            f"{reader.path}: deepseek2 without expert_gating_func routes by softmax; only glm4_moe_lite runs"
        )
    heads = config["num_attention_heads"]
    reader.expect("attention.head_count_kv", 1, heads)
    config["num_key_value_heads"] = heads
    config["q_lora_rank"] = reader.integer("attention.q_lora_rank") if reader.has("attention.q_lora_rank") else None
    config["kv_lora_rank"] = reader.integer("attention.kv_lora_rank")
    rope = reader.integer("rope.dimension_count")
    plain = reader.integer("attention.key_length"), reader.integer("attention.value_length")
    config["qk_rope_head_dim"] = rope
    config["qk_nope_head_dim"] = reader.integer("attention.key_length_mla", plain[0]) - rope
    config["v_head_dim"] = reader.integer("attention.value_length_mla", plain[1])
    config["rope_interleave"] = True
    _read_sigmoid_experts(reader, config, normalize=False)
    _split_off_next_token_layers(reader, config)


def _read_sigmoid_experts(reader: GgufMetadata, config: Config, *, normalize: bool) -> None:
    """The routing of DeepSeek-V3 and GLM; `normalize` is what an absent key means."""
    config["n_routed_experts"] = reader.integer("expert_count")
    config["num_experts_per_tok"] = reader.integer("expert_used_count")
    config["n_shared_experts"] = reader.integer("expert_shared_count", 0)
    config["moe_intermediate_size"] = reader.integer("expert_feed_forward_length")
    config["first_k_dense_replace"] = reader.integer("leading_dense_block_count", 0)
    config["routed_scaling_factor"] = reader.number("expert_weights_scale", 1.0)
    config["norm_topk_prob"] = reader.flag("expert_weights_norm", normalize)
    config["n_group"] = max(1, reader.integer("expert_group_count", 1))
    config["topk_group"] = max(1, reader.integer("expert_group_used_count", 1))


def _split_off_next_token_layers(reader: GgufMetadata, config: Config) -> None:
    """`block_count` counts the multi-token prediction layers; `num_hidden_layers` does not."""
    count = reader.integer("nextn_predict_layers", 0)
    if count >= config["num_hidden_layers"]:
        raise CheckpointError(f"{reader.path}: {count} nextn_predict_layers of {config['num_hidden_layers']} blocks")
    config["num_nextn_predict_layers"] = count
    config["num_hidden_layers"] -= count


def _add_rope_scaling(path: Path, reader: GgufMetadata, config: Config, factors: Float32 | None) -> None:
    reader.expect("rope.scaling.attn_factor", 1.0, 0.0)
    kind = reader.text("rope.scaling.type", "none")
    factor = reader.number("rope.scaling.factor", 0.0)
    original = reader.integer("rope.scaling.original_context_length", 0)
    if factors is not None:
        config["rope_scaling"] = _llama3_scaling(path, config, factors)
    elif kind == "linear" or (kind == "none" and factor not in (0.0, 1.0)):
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        if factor <= 0 or original <= 0:
            raise CheckpointError(f"{path}: yarn needs rope.scaling.factor and original_context_length")
        config["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
        for key in ("beta_fast", "beta_slow"):
            if reader.has(f"rope.scaling.yarn_{key}"):
                config["rope_scaling"][key] = reader.number(f"rope.scaling.yarn_{key}")
    elif kind != "none":
        raise UnsupportedModelError(f"{path}: rope.scaling.type {kind!r}; none, linear and yarn are supported")


def _llama3_scaling(path: Path, config: Config, factors: Float32) -> Config:
    """Recover Llama 3's parameters from the divisors that GGUF stores; refuse if they do not give the same divisors."""
    base, half = config["rope_theta"], len(factors)
    factor = round(float(factors.max(initial=1.0)), 4)
    scaling: Config = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    wavelength = 2 * math.pi * np.power(base, np.arange(half) / half)
    smooth = np.clip((8192 / wavelength - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    expected = 1.0 / ((1.0 - smooth) / factor + smooth)
    if not np.allclose(factors, expected, rtol=1e-3):
        raise UnsupportedModelError(f"{path}: rope_freqs.weight holds divisors other than those of Llama 3")
    return scaling


_FAMILIES: Final[Mapping[str, Callable[[GgufMetadata, Config, Mapping[str, tuple[int, ...]]], None]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma3": _gemma3,
    "chatglm": _glm,
    "glm4": _glm,
    "glm4moe": _glm4moe,
    "deepseek2": _deepseek2,
}
