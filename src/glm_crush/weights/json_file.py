"""JSON files of a checkpoint: of a sane size, objects, no key twice.

Above: whoever reads a model's side files. Knows nothing of what they say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from glm_crush.errors import CheckpointError

__all__ = ["parse_object", "read_bytes", "read_json", "unique_keys"]

_MAX_JSON_BYTES: Final = 256_000_000


def read_bytes(path: Path, *, optional: bool = False) -> bytes:
    """The whole file; nothing if it is optional and not there. Raises CheckpointError."""
    if optional and not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if len(data) > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES} bytes")
    return data


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in a file; {} if it is optional and not there. Raises CheckpointError."""
    data = read_bytes(path, optional=optional)
    return {} if optional and not data else parse_object(path, data)


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The object that a file holds, no key of it twice. Raises CheckpointError, which names the file."""
    try:
        value = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, not an object")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object_pairs_hook that refuses an object with a key twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice")
    return result
