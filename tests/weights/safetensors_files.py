"""Writes safetensors files by hand, valid and not, for the tests of the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["entry", "safetensors_bytes", "write_folder"]


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """One header entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_bytes(header: object, data: bytes = b"", *, header_size: int | None = None) -> bytes:
    """A file of that header (text or a JSON value), with a lying size if asked for."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return (len(text) if header_size is None else header_size).to_bytes(8, "little") + text + data


def write_folder(folder: Path, tensors: dict[str, tuple[str, np.ndarray]], config: dict[str, Any]) -> Path:
    """A checkpoint folder; each tensor is its stored type's name and an array of the same item size."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        header[name] = entry(dtype, list(array.shape), len(data), len(data) + len(content))
        data += content
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(text, data))
    (folder / "config.json").write_text(json.dumps(config))
    return folder
