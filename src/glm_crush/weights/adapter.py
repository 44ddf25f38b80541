"""A LoRA adapter on disk, as PEFT writes it: pairs of small matrices that change linear weights.

A module with weight W becomes `W + scale * B A`, A `[r, in]`, B `[out, r]`. Only what is computed exactly is taken:
everything else in adapter_config.json that would change the result is refused by name. Above: `models.adapter_weights`,
which fits it to a program, and `weights.merge`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from glm_crush.weights.json_file import parse_object
from glm_crush.weights.safetensors_reader import RawTensor, read_safetensors
from glm_crush.weights.source_tensor import DenseTensor

__all__ = ["Adapter", "LoraModule", "read_adapter"]

Float32 = npt.NDArray[np.float32]

_MAX_CONFIG_BYTES: Final = 10_000_000
_MAX_RANK: Final = 4096
_PREFIX: Final = "base_model.model."
_TENSOR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# Settings that change what an adapter computes in ways that are not computed here, and what each may be.
_REFUSED: Final[Mapping[str, tuple[Any, str]]] = {
    "use_dora": (False, "DoRA rescales the columns of the whole weight"),
    "bias": ("none", "biases of the base model would change too"),
    "lora_bias": (False, "the adapter has biases of its own"),
    "modules_to_save": (None, "whole modules would be replaced"),
    "fan_in_fan_out": (False, "its matrices are transposed"),
    "layer_replication": (None, "layers would be repeated"),
    "alora_invocation_tokens": (None, "it is on for a part of the prompt only"),
    "trainable_token_indices": (None, "embeddings would be replaced"),
    "target_parameters": (None, "it changes parameters that are not linear layers"),
    "use_qalora": (False, "its inputs are pooled"),
}


@dataclass(frozen=True)
class LoraModule:
    """What is added to one linear weight: `scale * b @ a`.

    Attributes:
        name: of the module in the model, as in `model.layers.0.self_attn.q_proj`.
        a: float32 `[r, in]`. b: float32 `[out, r]`.
    """

    name: str
    a: Float32
    b: Float32
    scale: float

    def delta(self) -> Float32:
        """Float32 `[out, in]`."""
        return np.asarray(np.float32(self.scale) * (self.b @ self.a), np.float32)


@dataclass(frozen=True)
class Adapter:
    """An adapter as read.

    Attributes:
        modules: by module name. fingerprint: of its files' content, hexadecimal.
    """

    path: Path
    modules: Mapping[str, LoraModule]
    fingerprint: str

    @property
    def nbytes(self) -> int:
        """Memory of all matrices."""
        return sum(module.a.nbytes + module.b.nbytes for module in self.modules.values())


def read_adapter(path: str | Path) -> Adapter:
    """Read a PEFT folder: adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelNotFoundError: there is no such folder.
        CheckpointError: a file is missing or malformed, or matrices contradict each other or the configuration.
        UnsupportedModelError: the adapter does what is not supported; says what.
    """
    path = Path(path).expanduser()
    try:
        is_folder = path.is_dir()
    except OSError:  # a name that no file can have
        is_folder = False
    if not is_folder:
        raise ModelNotFoundError(f"{path} is no folder; give the folder of a LoRA adapter, with adapter_config.json")
    config_path, weights_path = path / "adapter_config.json", path / "adapter_model.safetensors"
    for file in (config_path, weights_path):
        if not file.is_file():
            raise CheckpointError(f"{path} has no {file.name}; a LoRA adapter of PEFT consists of it and its pair")
    config, digest = _read_config(config_path)
    tensors = read_safetensors(weights_path)
    modules = {name: _module(weights_path, config, name, pair) for name, pair in _pairs(weights_path, tensors).items()}
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name].data).tobytes())
    return Adapter(path, modules, digest.hexdigest()[:32])


def _read_config(path: Path) -> tuple[dict[str, Any], Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    config = parse_object(path, data)
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedModelError(f"{path}: peft_type is {kind!r}; only LORA is supported")
    for key, (allowed, why) in _REFUSED.items():
        value = config.get(key, allowed)
        if value not in (allowed, None, [], {}):
            raise UnsupportedModelError(
                f"{path}: {key} is {value!r:.80}, which is not supported ({why}); "
                "merge it with the tool that trained it"
            )
    return config, hashlib.sha256(data)


def _pairs(path: Path, tensors: Mapping[str, RawTensor]) -> dict[str, dict[str, Float32]]:
    """A and B by module name."""
    pairs: dict[str, dict[str, Float32]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise UnsupportedModelError(
                f"{path}: tensor {name!r} is neither a lora_A nor a lora_B weight of a linear layer, "
                "and leaving it out would change the result"
            )
        if not tensor.dtype.startswith(("F16", "F32", "F64", "BF16")):
            raise UnsupportedModelError(f"{path}: tensor {name!r} is {tensor.dtype}; give F32, F16 or BF16")
        values = DenseTensor(name, tensor.dtype, tensor.data).float32()
        if values.ndim != 2 or not np.isfinite(values).all():
            raise CheckpointError(f"{path}: tensor {name!r} {values.shape} must be a matrix of finite numbers")
        pairs.setdefault(match["module"].removeprefix(_PREFIX), {})[match["side"]] = values
    if not pairs:
        raise CheckpointError(f"{path} holds no tensors; the adapter changes nothing")
    return pairs


def _module(path: Path, config: Mapping[str, Any], name: str, pair: Mapping[str, Float32]) -> LoraModule:
    if pair.keys() != {"A", "B"}:
        [given] = pair
        raise CheckpointError(f"{path}: {name} has lora_{given} alone; both of lora_A and lora_B are due")
    a, b = pair["A"], pair["B"]
    rank = _number(path, config, "rank_pattern", "r", name)
    if not 1 <= rank <= _MAX_RANK or rank != int(rank):
        raise CheckpointError(f"{path}: r of {name} is {rank}; it is a whole number from 1 to {_MAX_RANK}")
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"{path}: {name} has lora_A {a.shape} and lora_B {b.shape}; "
            f"adapter_config.json says r = {int(rank)}, so [r, in] and [out, r] are due"
        )
    alpha = _number(path, config, "alpha_pattern", "lora_alpha", name)
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(name, a, b, scale)


def _number(path: Path, config: Mapping[str, Any], pattern: str, default: str, module: str) -> float:
    """The value for a module: of the first pattern that its name ends in, else the common one."""
    value = config.get(default)
    patterns = config.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: {pattern} is {type(patterns).__name__}, not an object")
    for key, special in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({key})$", module)
        except re.error as error:
            raise CheckpointError(f"{path}: {pattern} has {key!r}, which is no regular expression: {error}") from error
        if matches:
            value = special
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{path}: {default} of {module} is {value!r}; a number is due")
    return float(value)
