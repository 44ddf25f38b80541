"""The files that a checkpoint consists of, found by their names.

Above: `checkpoint`, which reads them, and `models.loader`, which compares them with what was packed: a packed model
starts without the readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from glm_crush.errors import CheckpointError, ModelNotFoundError
from glm_crush.weights.json_file import read_json
from glm_crush.weights.sentence_files import sentence_files

__all__ = ["checkpoint_files", "weight_map"]

_SIDE_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)


def checkpoint_files(path: str | Path) -> tuple[Path, ...]:
    """The files a checkpoint consists of, weights and side files, in a fixed order.

    Raises:
        ModelNotFoundError: there is no such path. CheckpointError: it is no checkpoint, or a shard is missing.
    """
    path = Path(path)
    if not path.exists():
        raise ModelNotFoundError(f"{path} does not exist; give a model folder or a .gguf file")
    if path.is_file() and path.suffix == ".gguf":
        return _gguf_parts(path)
    if path.is_file():
        raise CheckpointError(f"{path} is neither a folder nor a .gguf file")
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if ggufs:
            return _gguf_parts(ggufs[0])
        raise CheckpointError(f"{path} has no config.json and no .gguf file; it is not a model folder")
    sides = [path / name for name in _SIDE_FILES if (path / name).is_file()]
    return (*sides, *sentence_files(path), *_shards(path))


def _shards(folder: Path) -> list[Path]:
    """The safetensors files: those the index names, or all in the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted({str(name) for name in weight_map(index).values()})
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{index} names shard {name!r}, which is not in {folder}")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{folder} has no *.safetensors file")
    return shards


def _gguf_parts(path: Path) -> tuple[Path, ...]:
    stem, _, count_text = path.stem.rpartition("-of-")
    base, _, number = stem.rpartition("-")
    if not (len(count_text) == len(number) == 5 and (count_text + number).isdecimal()):
        return (path,)
    count = int(count_text)
    parts = [path.with_name(f"{base}-{i:05d}-of-{count_text}.gguf") for i in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part} is missing; {path.name} is one of {count} parts")
    return tuple(parts)


def weight_map(index: Path) -> Mapping[str, Any]:
    """Which shard each tensor is in, as the index of a folder says. Raises CheckpointError."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index} has no weight_map")
    return shards
