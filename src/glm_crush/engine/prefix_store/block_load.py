"""Blocks on their way from disk into the cache: what the engine's thread asks for and the store's thread does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BlockLoad"]


@dataclass(eq=False)
class BlockLoad:
    """Blocks that are being filled; the thread that fills them writes the last two.

    Attributes:
        digests: what is wanted. blocks: where it goes; nobody uses them until the load is done.
        num_loaded: how many of the first have got there. done: whether no more will.
    """

    digests: Sequence[bytes]
    blocks: Sequence[int]
    num_loaded: int = 0
    done: bool = False
