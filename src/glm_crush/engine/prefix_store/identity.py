"""What the bytes of a cached block depend on, beside its tokens and all those before it.

Above: `build`. Below: the packed model, its program and the executor. An adapter is in the salt of its requests.
"""

from __future__ import annotations

import hashlib

from glm_crush.kernels.program import Program
from glm_crush.weights.packed_file import PackedFile

__all__ = ["store_identity"]

_LAYOUT_VERSION = 1  # of what `read_blocks` gives, and of how digests are made


def store_identity(*, packed: PackedFile, program: Program, kv_dtype: str, numerics: str, block_size: int) -> bytes:
    """32 bytes that differ wherever a computed block could.

    Args:
        packed: the weights.
        program: what runs over them.
        kv_dtype: of the cache.
        numerics: of the executor.
        block_size: tokens in a block.
    """
    parts = (_LAYOUT_VERSION, packed.data_hash.hex(), packed.entries(), program, kv_dtype, numerics, block_size)
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
