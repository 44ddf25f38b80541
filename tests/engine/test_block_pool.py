"""The block pool: nobody gets a block that somebody holds, and none is lost."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from glm_crush.engine.block_pool import BlockPool


def test_a_block_released_is_handed_out_again_first():
    pool = BlockPool(num_blocks=4, block_size=16)
    first = pool.try_allocate(2)
    assert first == [0, 1]
    pool.release(first)
    assert pool.try_allocate(1) == [0]


def test_too_many_blocks_are_refused_and_nothing_changes():
    pool = BlockPool(num_blocks=4, block_size=16)
    assert pool.try_allocate(5) is None
    assert pool.try_allocate(3, keep_free=2) is None
    assert pool.num_free == 4


def test_tokens_round_up_to_blocks():
    pool = BlockPool(num_blocks=4, block_size=16)
    assert [pool.num_blocks_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_integrity_check_notices_a_leaked_block():
    pool = BlockPool(num_blocks=4, block_size=16)
    pool.try_allocate(1)
    with pytest.raises(AssertionError, match="block 0 has 1 references and 0 holders"):
        pool.check_integrity([])


class PoolMachine(RuleBasedStateMachine):
    """Tables come, are forked (every block shared) and go, in any order."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(num_blocks=12, block_size=4)
        self.held: list[list[int]] = []

    @rule(target=tables, count=st.integers(1, 6), keep_free=st.integers(0, 3))
    def allocate(self, count: int, keep_free: int) -> list[int]:
        free = self.pool.num_free
        blocks = self.pool.try_allocate(count, keep_free=keep_free)
        assert (blocks is None) == (count + keep_free > free)
        if blocks is None:
            return []
        assert not set(blocks) & {block for table in self.held for block in table}
        self.held.append(blocks)
        return blocks

    @rule(target=tables, table=tables)
    def fork(self, table: list[int]) -> list[int]:
        if not any(table is held for held in self.held):
            return []
        self.pool.share(table)
        self.held.append(list(table))
        return self.held[-1]

    @rule(table=consumes(tables))
    def release(self, table: list[int]) -> None:
        if table:
            self.held = [held for held in self.held if held is not table]
            self.pool.release(table)

    @invariant()
    def is_sound(self) -> None:
        self.pool.check_integrity(self.held)


TestPoolMachine = PoolMachine.TestCase
