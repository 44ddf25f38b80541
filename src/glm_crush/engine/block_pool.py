"""Who holds which block of the KV cache: reference counts and a free list.

A block is room for `block_size` consecutive positions of a sequence in every layer. The arrays belong to
the executor; here a block is its number. Above: the scheduler. This module knows neither arrays nor requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["BlockPool"]


class BlockPool:
    """Hands out block numbers `[0, num_blocks)` and takes them back when nobody refers to them."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0
        assert block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        # A stack: the block released last is the likeliest to be in the processor's cache still.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` positions."""
        return -(-num_tokens // self.block_size)

    def try_allocate(self, count: int, *, keep_free: int = 0) -> list[int] | None:
        """Take `count` blocks with one reference each, leaving at least `keep_free` in the pool.

        Returns: the blocks, or None (and nothing changes) when there are too few.
        """
        if count + keep_free > len(self._free):
            return None
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            assert self._ref_counts[block] == 0
            self._ref_counts[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add one reference to each block, which somebody must hold already."""
        for block in blocks:
            assert self._ref_counts[block] > 0
            self._ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference from each block; those without any become free."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free.append(block)

    def check_integrity(self, holders: Iterable[Sequence[int]]) -> None:
        """Assert that `holders` (the block tables of all requests) account for every reference."""
        held: Counter[int] = Counter()
        for blocks in holders:
            assert len(set(blocks)) == len(blocks), f"a table names a block twice: {blocks}"
            held.update(blocks)
        for block, count in enumerate(self._ref_counts):
            assert held[block] == count, f"block {block} has {count} references and {held[block]} holders"
        assert len(self._free) == len(set(self._free)), "a block is free twice"
        assert all(self._ref_counts[block] == 0 for block in self._free), "a block in use is free"
        assert len(self._free) == self._ref_counts.count(0), "a block leaked"
