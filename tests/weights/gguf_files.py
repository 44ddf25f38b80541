"""Writes GGUF files: tiny models the way llama.cpp's converters do, and headers by hand, valid and not.

Tensor names come from the name map of the `gguf` library, so they are a second opinion on our own table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants

from tests.models.tiny import tiny_config, tiny_tensors

__all__ = ["ARCH_OF", "convert", "header", "tensor_info", "text", "tiny_gguf", "value"]

ARCH_OF = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "glm": gguf.MODEL_ARCH.CHATGLM,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "glm4_moe": gguf.MODEL_ARCH.GLM4_MOE,
    "glm4_moe_lite": gguf.MODEL_ARCH.DEEPSEEK2,
}


def tiny_gguf(
    family: str, folder: Path, *, dtype: str = "F32", extra: Mapping[str, Any] | None = None, **overrides: Any
) -> Path:
    """The tiny model of `family` as one GGUF file; matrices in `dtype`, `extra` keys added or replaced."""
    config = tiny_config(family, **overrides)
    path = folder / f"{family}.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    arch = gguf.MODEL_ARCH_NAMES[ARCH_OF[family]]
    writer = gguf.GGUFWriter(path, arch)
    keys = {**_metadata(family, config), **(extra or {})}
    for key, item in keys.items():
        name = key if "." in key and key.split(".")[0] in ("tokenizer", "general", "split") else f"{arch}.{key}"
        if isinstance(item, bool):
            writer.add_bool(name, item)
        elif isinstance(item, int):
            writer.add_uint32(name, item)
        elif isinstance(item, float):
            writer.add_float32(name, item)
        elif isinstance(item, str):
            writer.add_string(name, item)
        elif item is not None:
            writer.add_array(name, item)
    for name, values in convert(family, config, tiny_tensors(config)).items():
        kind = GGMLQuantizationType[dtype]
        if dtype == "F32" or values.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    nextn = config.get("num_nextn_predict_layers", 0)
    keys: dict[str, Any] = {
        "block_count": config["num_hidden_layers"] + nextn,
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": config["rope_theta"],
        "rope.dimension_count": int(head_dim * config.get("partial_rotary_factor", 1.0)),
        "nextn_predict_layers": nextn or None,
        "tokenizer.ggml.eos_token_id": 0,
    }
    if family == "mixtral":
        keys |= {"expert_count": config["num_local_experts"], "expert_used_count": config["num_experts_per_tok"]}
    if family == "qwen3_moe":
        keys |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    if family == "gemma3":
        keys |= {
            "attention.sliding_window": config["sliding_window"],
            "attention.sliding_window_pattern": config["sliding_window_pattern"],
            "rope.freq_base_swa": config["rope_local_base_freq"],
            "rope.dimension_count": None,
        }
    if family in ("glm4_moe", "glm4_moe_lite"):
        keys |= {
            "expert_count": config["n_routed_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_shared_count": config["n_shared_experts"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "leading_dense_block_count": config["first_k_dense_replace"],
            "expert_weights_scale": config["routed_scaling_factor"],
            "expert_weights_norm": config["norm_topk_prob"],
            "expert_gating_func": 2,
        }
    if family == "glm4_moe_lite":
        rope = config["qk_rope_head_dim"]
        keys |= {
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": config["q_lora_rank"],
            "attention.kv_lora_rank": config["kv_lora_rank"],
            "attention.key_length": config["kv_lora_rank"] + rope,
            "attention.value_length": config["kv_lora_rank"],
            "attention.key_length_mla": config["qk_nope_head_dim"] + rope,
            "attention.value_length_mla": config["v_head_dim"],
            "rope.dimension_count": rope,
            "vocab_size": config["vocab_size"],
        }
    return keys


def convert(family: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by GGUF name, changed as the converter of the family changes them."""
    layers = config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)
    names = gguf.get_tensor_name_map(ARCH_OF[family], layers)
    out: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, values in tensors.items():
        if family in ("llama", "mixtral") and (".q_proj." in name or ".k_proj." in name):
            count = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            values = values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if family == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        if name.endswith("kv_b_proj.weight"):
            both = values.reshape(config["num_attention_heads"], -1, values.shape[1])
            nope = config["qk_nope_head_dim"]
            keys = np.ascontiguousarray(both[:, :nope].transpose(0, 2, 1))
            out[_map(names, name.replace("kv_b_proj", "k_b_proj"))] = keys
            out[_map(names, name.replace("kv_b_proj", "v_b_proj"))] = np.ascontiguousarray(both[:, nope:])
            continue
        if ".experts." in name:
            prefix, _, rest = name.partition(".experts.")
            index, _, part = rest.partition(".")
            experts.setdefault(f"{prefix}.experts.{part}", {})[int(index)] = values
            continue
        out[_map(names, name)] = values
    for name, parts in experts.items():
        out[_map(names, name)] = np.stack([parts[i] for i in range(len(parts))])
    return out


def _map(names: gguf.TensorNameMap, name: str) -> str:
    if name.endswith("e_score_correction_bias"):
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
    mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert mapped is not None, name
    return mapped


def text(content: str | bytes) -> bytes:
    """A GGUF string."""
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data)) + data


def value(kind: int, code: str, *content: Any) -> bytes:
    """A typed value: its type and its packed content."""
    return struct.pack("<I" + code, kind, *content)


def tensor_info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    """One entry of the tensor table."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def header(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_keys: int | None = None,
) -> bytes:
    """A header with counts that may lie."""
    counts = (len(tensors) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys)
    return magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
