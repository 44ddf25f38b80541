"""Tiny random checkpoints of every family, written from nothing but a seed: for everyone's tests.

Sizes are odd on purpose: head_dim is not hidden_size / heads, no width is a multiple of 64, the vocabulary is
not a multiple of 16. Values come from NumPy's frozen RandomState, one stream per tensor name, so that the golden
logits in `tests/golden` hold for ever and an added tensor moves no other.

    path = tiny_checkpoint("llama", tmp_path, num_hidden_layers=1)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.models.tiny_shapes import FAMILY_CONFIGS, tensor_shapes
from tests.models.tiny_tokenizer import CHAT_TEMPLATE, tokenizer_json

__all__ = ["FAMILIES", "tiny_checkpoint", "tiny_config", "tiny_tensors"]

FAMILIES = tuple(FAMILY_CONFIGS)
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def tiny_config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json of the tiny model of `family`; an override of None removes the key (`q_lora_rank` becomes null)."""
    config = {**FAMILY_CONFIGS[family], **overrides}
    return {key: value for key, value in config.items() if value is not None or key == "q_lora_rank"}


def tiny_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors for a tiny config, by their Hugging Face names."""
    return {name: _random(name, shape, config, seed) for name, shape in tensor_shapes(config).items()}


def tiny_checkpoint(family: str, folder: Path, seed: int = 0, *, dtype: str = "F32", **overrides: Any) -> Path:
    """Writes a Hugging Face checkpoint with tokenizer and chat template into `folder / family`.

    Args:
        family: one of FAMILIES.
        folder: where to put it.
        seed: of the weights.
        dtype: stored type of all tensors but the router bias: F32, F16 or BF16.
        overrides: config.json keys; None removes one.
    """
    path = folder / family
    path.mkdir(parents=True, exist_ok=True)
    config = tiny_config(family, **overrides)
    tensors = tiny_tensors(config, seed)
    stored = {
        name: values if name.endswith("e_score_correction_bias") else values.astype(DTYPES[dtype])
        for name, values in tensors.items()
    }
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    generation = {"eos_token_id": config.get("eos_token_id", 0)}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer.json", tokenizer_json()),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (path / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def _random(name: str, shape: tuple[int, ...], config: Mapping[str, Any], seed: int) -> np.ndarray:
    state = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
    values = state.standard_normal(shape)
    if "norm" in name:
        centre = 0.0 if "gemma3" in config["model_type"] else 1.0
        return (centre + 0.2 * values).astype(np.float32)
    if len(shape) == 1:  # biases: strong enough that forgetting one shows
        return (0.3 * values).astype(np.float32)
    scale = 1.0 if "embed_tokens" in name and not config.get("tie_word_embeddings") else 1.4 / np.sqrt(shape[-1])
    return (scale * values).astype(np.float32)
