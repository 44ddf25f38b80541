"""What the store knows about a model: its name, its files, where it came from.

Below it: errors. Above it: the store. A model is a folder with a manifest `model.json`; a folder without a readable
manifest is not a model, so nothing half-done is ever listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from glm_crush.errors import DownloadError, InvalidParameterError

__all__ = [
    "StoredFile",
    "StoredModel",
    "check_hashes",
    "check_name",
    "folder_name",
    "format_of",
    "model_path",
    "read_manifest",
    "write_manifest",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?", re.ASCII)
_MANIFEST = "model.json"
_FILES = "files"


@dataclass(frozen=True)
class StoredFile:
    """One file: path relative to the model's files, size in bytes, sha256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredModel:
    """One model of the store.

    Attributes:
        name: what the user calls it.
        source: where it came from, resolved to a version or commit.
        format: "gguf", "safetensors", or "packed" for a registered file of our own run-time format.
        path: what to open: a GGUF file, or a folder with config.json.
        bytes: size of all its files.
        modified: when it was pulled or registered, UTC.
        files: every file with its hash; empty for a registered path.
        linked: whether `path` belongs to the user and is only registered here.
    """

    name: str
    source: str
    format: str
    path: Path
    bytes: int
    modified: datetime
    files: tuple[StoredFile, ...] = ()
    linked: bool = False


def check_name(name: str) -> str:
    """Return the name. Raises InvalidParameterError when it cannot be one."""
    if _NAME.fullmatch(name) is None or len(name) > 200:
        raise InvalidParameterError(
            f"{name[:80]!r} is not a model name; use letters, digits, '.', '_', '-', with '/' and one ':' between them",
            parameter="model",
        )
    return name


def folder_name(name: str) -> str:
    """The folder of a name: one path component for each name, whatever characters it has."""
    return quote(name, safe="")


def format_of(paths: Sequence[str], origin: str) -> str:
    """Which format these files are. Raises DownloadError when they are no model."""
    if any(path.endswith(".gguf") for path in paths):
        return "gguf"
    if any(path.endswith(".safetensors") for path in paths):
        if not any(path == "config.json" for path in paths):
            raise DownloadError(f"{origin} has safetensors files but no config.json beside them")
        return "safetensors"
    if any(path.endswith(".glm") for path in paths):
        return "packed"
    raise DownloadError(f"{origin} holds neither GGUF nor safetensors files")


def model_path(files: Path, paths: Sequence[str], form: str) -> Path:
    """What to open: the (first) GGUF file, or the folder."""
    if form == "safetensors":
        return files
    return files / min(path for path in paths if path.endswith(".gguf"))


def write_manifest(folder: Path, model: StoredModel) -> None:
    """Write `model.json`; its `path` is given by the folder, unless the model is linked."""
    manifest = {
        "name": model.name,
        "source": model.source,
        "format": model.format,
        "modified": model.modified.isoformat(timespec="seconds"),
        "bytes": model.bytes,
        "link": str(model.path) if model.linked else None,
        "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in model.files],
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def read_manifest(folder: Path) -> StoredModel | None:
    """The model in this folder, or None when there is none."""
    try:
        data: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files = tuple(StoredFile(str(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in data["files"])
        link = data["link"]
        form = str(data["format"])
        path = Path(link) if link else model_path(folder / _FILES, [file.path for file in files], form)
        return StoredModel(
            name=str(data["name"]),
            source=str(data["source"]),
            format=form,
            path=path,
            bytes=int(data["bytes"]),
            modified=datetime.fromisoformat(data["modified"]).astimezone(UTC),
            files=files,
            linked=bool(link),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a model: never finished, or not ours


def check_hashes(model: StoredModel, expected: Mapping[str, str]) -> str | None:
    """What differs from the pinned hashes, or None."""
    found = {file.path: file.sha256 for file in model.files}
    for path, sha256 in expected.items():
        if found.get(path) != sha256:
            return f"{path} has sha256 {found.get(path, '(missing)')}; this name is pinned to {sha256}"
    return None
