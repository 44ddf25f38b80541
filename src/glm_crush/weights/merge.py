"""A model with a LoRA adapter in its weights, written as a Hugging Face folder.

Weights are read in float32, changed and stored as they were; those that the adapter changes and that were quantised,
and all others of a quantised model, as bfloat16. One tensor is in memory at a time. Above: `glm merge`.
"""

from __future__ import annotations

import difflib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from glm_crush.errors import CheckpointError, ConfigError, UnsupportedModelError
from glm_crush.weights.adapter import Adapter, LoraModule
from glm_crush.weights.atomic_file import AtomicFile
from glm_crush.weights.checkpoint import Checkpoint
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["merge_adapter"]

_STORED: Final = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_QUANTIZATION_KEYS: Final = ("quantization_config", "compression_config")


def merge_adapter(
    checkpoint: Checkpoint, adapter: Adapter, output: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write `checkpoint` with `adapter` merged into the folder `output`.

    Args:
        checkpoint: a Hugging Face folder, quantised or not.
        adapter: its modules are all in the checkpoint.
        output: a folder that does not exist or is empty.
        progress: called with bytes written and in all.

    Raises:
        ConfigError: the output exists. UnsupportedModelError: the model is a GGUF file, or a module is not in it.
        CheckpointError: shapes do not fit. PackedFileError: the disk refuses.
    """
    if checkpoint.format != "safetensors":
        raise UnsupportedModelError(f"{checkpoint.path} is a GGUF file; merging takes a Hugging Face folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists; give a new folder")
    modules = _modules_by_tensor(checkpoint, adapter)
    names = sorted(checkpoint.names())
    dtypes = {name: _stored_type(checkpoint.tensor(name)) for name in names}
    header = _header(checkpoint, names, dtypes)
    total = len(header) + sum(_nbytes(checkpoint.tensor(name), dtypes[name]) for name in names)
    done = len(header)
    with AtomicFile(output / "model.safetensors", total) as file:
        file.write(header)
        for name in names:
            for part in _parts(checkpoint.tensor(name), modules.get(name), dtypes[name]):
                file.write(part)
                done += len(part)
                if progress is not None:
                    progress(done, total)
    config = {key: value for key, value in checkpoint.config.items() if key not in _QUANTIZATION_KEYS}
    (output / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    for source in checkpoint.files:
        if source.suffix != ".safetensors" and source.name not in ("config.json", "model.safetensors.index.json"):
            target = output / source.relative_to(checkpoint.files[0].parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _modules_by_tensor(checkpoint: Checkpoint, adapter: Adapter) -> dict[str, LoraModule]:
    names = set(checkpoint.names())
    found: dict[str, LoraModule] = {}
    for module in adapter.modules.values():
        name = f"{module.name}.weight"
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise UnsupportedModelError(
                f"{adapter.path} changes {module.name!r}, and {checkpoint.path} has no tensor {name!r}{hint}"
            )
        shape, wanted = checkpoint.tensor(name).shape, (module.b.shape[0], module.a.shape[1])
        if shape != wanted:
            raise CheckpointError(f"{adapter.path}: {module.name} is for a weight {wanted}; the model's is {shape}")
        found[name] = module
    return found


def _stored_type(tensor: SourceTensor) -> str:
    return tensor.dtype if tensor.dtype in _STORED else "BF16"


def _nbytes(tensor: SourceTensor, dtype: str) -> int:
    return int(math.prod(tensor.shape) * _STORED[dtype].itemsize)


def _header(checkpoint: Checkpoint, names: list[str], dtypes: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        tensor = checkpoint.tensor(name)
        end = begin + _nbytes(tensor, dtypes[name])
        entries[name] = {"dtype": dtypes[name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _parts(tensor: SourceTensor, module: LoraModule | None, dtype: str) -> Iterator[bytes]:
    values = tensor.float32()
    if module is not None:
        values += module.delta()
    with np.errstate(over="ignore"):
        stored = values.astype(_STORED[dtype])
    if not np.isfinite(stored).all() and np.isfinite(values).all():
        raise CheckpointError(f"{tensor.name}: the merged weight does not fit {dtype}")
    yield stored.tobytes()
