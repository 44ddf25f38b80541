"""A GGUF checkpoint of one or several files as Hugging Face tensors and configuration.

Undoes what llama.cpp's converters did: q and k rows permuted for interleaved rotary embeddings (llama), 1 added to norm
weights (gemma), experts stacked, MLA's kv_b_proj split. Above: `weights.checkpoint`. Reading is in `gguf_reader`,
names in `gguf_names`, configuration in `gguf_config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.weights.gguf_blocks import GgufTensor
from glm_crush.weights.gguf_config import generation_config_from_gguf, model_config_from_gguf
from glm_crush.weights.gguf_names import ARCHITECTURES, Architecture, TensorName, parse_name
from glm_crush.weights.gguf_reader import GgufRawTensor, read_gguf
from glm_crush.weights.safetensors_names import MAX_EXPERTS, TensorMaker, mixtral_name
from glm_crush.weights.source_tensor import HeadsTensor, RowMappedTensor, SourceTensor

__all__ = ["GgufCheckpoint", "open_gguf"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GgufCheckpoint:
    """What `checkpoint.Checkpoint` needs of GGUF files."""

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    chat_template: str | None
    makers: Mapping[str, TensorMaker]
    metadata: Mapping[str, Any]


def open_gguf(files: Sequence[Path]) -> GgufCheckpoint:
    """Read the headers of all parts of a GGUF checkpoint.

    Raises:
        CheckpointError: a part is malformed, or the parts do not belong together.
        UnsupportedModelError: the architecture, a key, a type or a tensor is not one that is run.
    """
    parts = [read_gguf(path) for path in files]
    metadata = parts[0].metadata
    raw: dict[str, GgufRawTensor] = {}
    for index, part in enumerate(parts):
        number, count = part.metadata.get("split.no", index), part.metadata.get("split.count", len(parts)) or 1
        if (number, count) != (index, len(parts)):
            raise CheckpointError(f"{part.path} is part {number} of {count}; part {index} of {len(parts)} was expected")
        for name, tensor in part.tensors.items():
            if name in raw:
                raise CheckpointError(f"{part.path}: tensor {name!r} is in another part too")
            raw[name] = tensor
    path = files[0]
    shapes = {name: tensor.shape for name, tensor in raw.items()}
    factors = _float32(raw["rope_freqs.weight"]).reshape(-1) if "rope_freqs.weight" in raw else None
    config = model_config_from_gguf(path, metadata, shapes, factors)
    architecture = ARCHITECTURES[metadata["general.architecture"]]
    makers = _Makers(path, raw, architecture, config).collect()
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{path}: tokenizer.chat_template is {type(template).__name__}, not a string")
    return GgufCheckpoint(config, generation_config_from_gguf(metadata), template, makers, metadata)


def _float32(raw: GgufRawTensor) -> Float32:
    return GgufTensor(raw.name, raw.dtype, raw.shape, raw.data).float32()


class _Makers:
    """Makes Hugging Face tensors of GGUF ones."""

    def __init__(
        self,
        path: Path,
        raw: Mapping[str, GgufRawTensor],
        architecture: Architecture,
        config: Mapping[str, Any],
    ) -> None:
        self._path = path
        self._raw = raw
        self._architecture = architecture
        self._config = config

    def collect(self) -> dict[str, TensorMaker]:
        """Makers by Hugging Face name."""
        makers: dict[str, TensorMaker] = {}
        for stored in self._raw.values():
            parsed = parse_name(stored.name, self._architecture)
            if parsed is None:
                raise UnsupportedModelError(
                    f"{self._path}: tensor {stored.name!r} is not one of {self._architecture.class_name}"
                )
            for common, maker in self._tensors(parsed, stored):
                name = mixtral_name(common) if self._config["model_type"] == "mixtral" else common
                if name in makers:
                    raise CheckpointError(f"{self._path}: tensor {name!r} is there twice, under different spellings")
                makers[name] = maker
        return makers

    def _tensors(self, parsed: TensorName, raw: GgufRawTensor) -> Iterator[tuple[str, TensorMaker]]:
        if parsed.kind == "plain":
            yield parsed.name, lambda: self._plain(parsed, raw)
        elif parsed.kind in ("experts", "fused_experts"):
            yield from self._experts(parsed, raw)
        elif parsed.kind == "qkv":
            yield from self._query_key_value(parsed, raw)
        elif parsed.kind == "v_b":
            yield parsed.name, lambda: self._key_value_b(parsed, raw)
        elif parsed.kind == "k_b" and f"blk.{parsed.layer}.attn_v_b.weight" not in self._raw:
            raise CheckpointError(f"{self._path}: {raw.name!r} has no attn_v_b beside it")

    def _plain(self, parsed: TensorName, raw: GgufRawTensor) -> SourceTensor:
        tensor = GgufTensor(parsed.name, raw.dtype, raw.shape, raw.data)
        if self._architecture.permuted and parsed.part in ("attn_q", "attn_k"):
            key = "num_attention_heads" if parsed.part == "attn_q" else "num_key_value_heads"
            return RowMappedTensor(tensor, self._unpermuted(raw, self._config[key]))
        if self._architecture.norm_offset and parsed.name.endswith("norm.weight"):
            return RowMappedTensor(tensor, add=-self._architecture.norm_offset)
        return tensor

    def _unpermuted(self, raw: GgufRawTensor, heads: int) -> npt.NDArray[np.int64]:
        """Row order that undoes the converter: its row (head, i, half) is row (head, half, i) of Hugging Face."""
        rows = raw.shape[0]
        if heads <= 0 or rows % (2 * heads):
            raise CheckpointError(f"{self._path}: {raw.name!r} has {rows} rows, which {heads} heads do not share")
        order = np.arange(rows, dtype=np.int64).reshape(heads, rows // heads // 2, 2)
        return order.swapaxes(1, 2).reshape(-1)

    def _experts(self, parsed: TensorName, raw: GgufRawTensor) -> Iterator[tuple[str, TensorMaker]]:
        """Stacked experts `[E, out, in]`; `ffn_gate_up_exps` has gate rows first."""
        if len(raw.shape) != 3 or raw.shape[0] > MAX_EXPERTS:
            raise CheckpointError(f"{self._path}: {raw.name!r} has shape {raw.shape}; [experts, out, in] is due")
        experts, rows, cols = raw.shape
        base, _, suffix = parsed.name.rpartition(".")
        spans = {"": (0, rows)}
        if parsed.kind == "fused_experts":
            spans = {".gate_proj": (0, rows // 2), ".up_proj": (rows // 2, rows)}
        for expert in range(experts):
            for part, (start, stop) in spans.items():
                name = f"{base.format(expert)}{part}.{suffix}"
                data = raw.data[expert * rows + start : expert * rows + stop]
                yield name, _gguf_maker(name, raw.dtype, (stop - start, cols), data)

    def _query_key_value(self, parsed: TensorName, raw: GgufRawTensor) -> Iterator[tuple[str, TensorMaker]]:
        """attn_qkv: rows of q, k and v back to back."""
        head_dim = self._config["head_dim"]
        q_rows = self._config["num_attention_heads"] * head_dim
        kv_rows = self._config["num_key_value_heads"] * head_dim
        if raw.shape[0] != q_rows + 2 * kv_rows:
            raise CheckpointError(f"{self._path}: {raw.name!r} has {raw.shape[0]} rows, not {q_rows} + 2 x {kv_rows}")
        start = 0
        for letter, count in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            name = parsed.name.format(letter)
            yield name, _row_range_maker(name, raw, start, start + count)
            start += count

    def _key_value_b(self, parsed: TensorName, v_raw: GgufRawTensor) -> SourceTensor:
        """kv_b_proj from attn_k_b `[heads, lora, nope]` and attn_v_b `[heads, value, lora]`."""
        k_raw = self._raw.get(f"blk.{parsed.layer}.attn_k_b.weight")
        if k_raw is None or len(k_raw.shape) != 3 or len(v_raw.shape) != 3:
            raise CheckpointError(f"{self._path}: {v_raw.name!r} needs attn_k_b beside it, both of 3 dimensions")
        heads, value_dim, rank = v_raw.shape
        if k_raw.shape[:2] != (heads, rank):
            raise CheckpointError(f"{self._path}: {k_raw.name!r} is {k_raw.shape}, {v_raw.name!r} is {v_raw.shape}")
        keys = GgufTensor(parsed.name, k_raw.dtype, k_raw.shape, k_raw.data)
        values = GgufTensor(parsed.name, v_raw.dtype, v_raw.shape, v_raw.data)

        def make(head: int) -> Float32:
            return np.concatenate([keys.rows(head, head + 1)[0].T, values.rows(head, head + 1)[0]])

        return HeadsTensor(
            parsed.name, v_raw.dtype, num_heads=heads, head_rows=k_raw.shape[2] + value_dim, cols=rank, make=make
        )


def _gguf_maker(name: str, dtype: str, shape: tuple[int, ...], data: npt.NDArray[np.uint8]) -> TensorMaker:
    return lambda: GgufTensor(name, dtype, shape, data)


def _row_range_maker(name: str, raw: GgufRawTensor, start: int, stop: int) -> TensorMaker:
    def make() -> SourceTensor:
        return RowMappedTensor(GgufTensor(name, raw.dtype, raw.shape, raw.data), np.arange(start, stop))

    return make
