"""Tiny random LoRA adapters in PEFT's format, for everyone's tests."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

__all__ = ["ATTENTION", "FEED_FORWARD", "tiny_adapter"]

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FEED_FORWARD = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def tiny_adapter(
    folder: Path,
    checkpoint: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    targets: Sequence[str] = ATTENTION + FEED_FORWARD,
    size: float = 0.5,
    extra: Mapping[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """Writes an adapter of every module of `checkpoint` whose name ends in one of `targets`.

    `size` is the standard deviation of A and B. `extra` are further tensors; `config` goes to adapter_config.json.
    """
    from glm_crush.weights.checkpoint import open_checkpoint

    base = open_checkpoint(checkpoint)
    tensors: dict[str, np.ndarray] = dict(extra or {})
    for name in base.names():
        module = name.removesuffix(".weight")
        if module.endswith(tuple(targets)):
            rows, cols = base.tensor(name).shape
            for side, shape in (("A", (rank, cols)), ("B", (rows, rank))):
                tensor = f"base_model.model.{module}.lora_{side}.weight"
                state = np.random.RandomState((zlib.crc32(tensor.encode()) + 7919 * seed) % 2**32)
                tensors[tensor] = (size * state.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [*targets], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
