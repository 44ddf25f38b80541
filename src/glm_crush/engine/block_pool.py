"""Who holds which block of the KV cache: reference counts, a free list, and blocks kept for later use.

A block is room for `block_size` consecutive positions of a sequence in every layer. The arrays belong to
the executor; here a block is its number. Above: the scheduler and the prefix cache. This module knows neither arrays
nor requests nor what a block contains.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

__all__ = ["BlockPool"]


class BlockPool:
    """Hands out block numbers `[0, num_blocks)` and takes them back when nobody refers to them.

    A block is in use (it has references), idle (it has none, and its content is kept until room is needed) or free.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0
        assert block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._ref_counts = [0] * num_blocks
        # A stack: the block released last is the likeliest to be in the processor's cache still.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._on_evict: dict[int, Callable[[int], None]] = {}  # the blocks to keep: whom to tell when one is taken
        self._idle: OrderedDict[int, None] = OrderedDict()  # the one released longest ago comes first

    @property
    def num_free(self) -> int:
        """Blocks that can be handed out: free ones and idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def idle_blocks(self) -> tuple[int, ...]:
        """Blocks without references whose content is kept, the next to be evicted first."""
        return tuple(self._idle)

    def num_references(self, block: int) -> int:
        return self._ref_counts[block]

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` positions."""
        return -(-num_tokens // self.block_size)

    def try_allocate(self, count: int, *, keep_free: int = 0) -> list[int] | None:
        """Take `count` blocks with one reference each, leaving at least `keep_free` in the pool.

        Free blocks go first, then the idle ones that were released longest ago.

        Returns: the blocks, or None (and nothing changes) when there are too few.
        """
        if count + keep_free > self.num_free:
            return None
        while len(self._free) < count:
            self._evict_one()
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            assert self._ref_counts[block] == 0
            self._ref_counts[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add one reference to each block, which somebody must hold already or which must be idle."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._idle[block]
            self._ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference from each block, the last one first; those without any become idle if kept, else free.

        Of blocks released together the last is thus evicted first.
        """
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._on_evict:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def keep(self, block: int, on_evict: Callable[[int], None]) -> None:
        """Keep a block's content when its last reference goes; `on_evict` is told when the room is taken."""
        assert self._ref_counts[block] > 0
        assert block not in self._on_evict
        self._on_evict[block] = on_evict

    def is_kept(self, block: int) -> bool:
        return block in self._on_evict

    def evict_idle(self) -> None:
        """Free every idle block."""
        while self._idle:
            self._evict_one()

    def _evict_one(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self._on_evict.pop(block)(block)
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
        assert all(self._ref_counts[block] == 0 for block in self._idle), "a block in use is idle"
        assert all(block in self._on_evict for block in self._idle), "a block is idle that nobody keeps"
        assert not self._on_evict.keys() & set(self._free), "a kept block is free"
        assert self.num_free == self._ref_counts.count(0), "a block leaked"
