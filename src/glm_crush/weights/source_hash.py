"""The identity of a checkpoint's content, cheap for large files.

Knows files only: neither formats nor models. A packed file is stale when this hash differs from the one it carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from glm_crush.errors import CheckpointError

__all__ = ["source_hash"]

_WHOLE_BYTES: Final = 1 << 20
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


def source_hash(files: Iterable[Path]) -> str:
    """sha256 over the names, sizes and content of the files.

    Files up to 1 MiB count whole. Of a larger one count the first MiB (in the formats we read, all or most of the
    header), 64 samples of 4 KiB spread evenly, and the last 4 KiB: training or another quantisation changes nearly
    every weight, so they show; an edit of single bytes in place may not.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                digest.update(f"{path.name}\0{size}\0".encode())
                file.seek(0)
                digest.update(file.read(_WHOLE_BYTES))
                if size > _WHOLE_BYTES:
                    last = size - _SAMPLE_BYTES
                    for i in range(1, _SAMPLES + 1):
                        file.seek(last * i // _SAMPLES)
                        digest.update(file.read(_SAMPLE_BYTES))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()
