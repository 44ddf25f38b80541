"""The files that sentence-transformers keeps beside a model: what its vectors are made of.

Above: `checkpoint`, which finds them, and `models.sentence`, which understands them. Only JSON is read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from glm_crush.errors import CheckpointError
from glm_crush.weights.json_file import unique_keys

__all__ = ["read_sentence_files", "sentence_files"]

_NAMES: Final = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_MAX_BYTES: Final = 1_000_000


def sentence_files(folder: Path) -> Sequence[Path]:
    """Those that are there, in a fixed order."""
    pooling = sorted(path for path in folder.glob("*_Pooling/config.json") if path.is_file())
    return [*(folder / name for name in _NAMES if (folder / name).is_file()), *pooling]


def read_sentence_files(folder: Path) -> Mapping[str, Any]:
    """Their JSON values by path relative to the folder.

    Raises:
        CheckpointError: a file cannot be read or is not JSON.
    """
    values: dict[str, Any] = {}
    for path in sentence_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise CheckpointError(f"{path} is larger than {_MAX_BYTES} bytes")
            values[name] = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
        wanted = list if name == "modules.json" else dict
        if not isinstance(values[name], wanted):
            raise CheckpointError(f"{path} holds {type(values[name]).__name__}, not {wanted.__name__}")
    return values
