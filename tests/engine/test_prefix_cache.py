"""The prefix cache over a block pool: what is found, kept, shared and evicted, and how a miss is explained."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.prefix_cache import Prefix, PrefixCache
from glm_crush.types import CacheReport


class Cache:
    """A cache of blocks of 4 tokens, and the life of a request in it in two calls."""

    def __init__(self, num_blocks: int = 8) -> None:
        self.pool = BlockPool(num_blocks, 4)
        self.cache = PrefixCache(self.pool)
        self.tables: list[list[int]] = []

    def find(self, tokens: Sequence[int], *, salt: bytes = b"", limit: int | None = None) -> Prefix:
        prefix = Prefix(salt)
        self.cache.match(prefix, array("i", tokens), len(tokens) if limit is None else limit)
        return prefix

    def start(self, tokens: Sequence[int], *, salt: bytes = b"", look_up: bool = True) -> list[int]:
        """Take blocks for a request and fill them."""
        prefix = self.find(tokens, salt=salt) if look_up else Prefix(salt)
        table = self.cache.blocks(prefix)
        self.pool.share(table)
        new = self.pool.try_allocate(self.pool.num_blocks_for(len(tokens)) - len(table))
        assert new is not None
        table = self.cache.store(prefix, array("i", tokens), table + new, len(tokens))
        self.tables.append(table)
        self.check()
        return table

    def end(self, table: list[int]) -> None:
        self.tables.remove(table)
        self.pool.release(table)
        self.check()

    def run(self, tokens: Sequence[int], **options: bytes) -> None:
        self.end(self.start(tokens, **options))

    def report(self, tokens: Sequence[int], *, salt: bytes = b"") -> CacheReport:
        return self.cache.report(self.find(tokens, salt=salt), array("i", tokens), len(tokens))

    def check(self) -> None:
        self.cache.check_integrity()
        self.pool.check_integrity(self.tables)


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.mark.requirement("E6")
def test_full_blocks_are_found_again_and_a_partial_one_is_not(cache):
    assert cache.start(range(10)) == [0, 1, 2]
    prefix = cache.find(range(12))
    assert (prefix.length, cache.cache.blocks(prefix)) == (8, [0, 1])


@pytest.mark.requirement("E6")
def test_a_block_is_the_same_only_after_the_same_tokens(cache):
    cache.run([1, 1, 1, 1, 2, 2, 2, 2])
    assert cache.find([3, 3, 3, 3, 2, 2, 2, 2]).length == 0
    assert cache.find([1, 1, 1, 1, 2, 2, 2, 3]).length == 4


@pytest.mark.requirement("E6")
def test_a_lookup_stops_at_the_limit_and_a_longer_one_goes_on_from_there(cache):
    cache.run(range(12))
    prefix = cache.find(range(12), limit=11)
    assert prefix.length == 8
    cache.cache.match(prefix, array("i", range(12)), 12)
    assert prefix.length == 12
    cache.cache.match(prefix, array("i", range(12)), 7)
    assert prefix.length == 4


@pytest.mark.requirement("E6")
def test_long_prefixes_are_found_whole():
    tokens = [token * 7919 % 1000 for token in range(4 * 200)]
    cache = Cache(num_blocks=200)
    cache.run(tokens)
    prefix = cache.find(tokens)
    assert (prefix.length, cache.cache.blocks(prefix)) == (800, list(range(200)))


@pytest.mark.requirement("E6")
def test_two_salts_share_nothing(cache):
    cache.run(range(8), salt=b"tenant a")
    assert cache.find(range(8)).length == 0
    assert cache.find(range(8), salt=b"tenant b").length == 0
    assert cache.find(range(8), salt=b"tenant a").length == 8


@pytest.mark.requirement("E6")
def test_a_block_computed_twice_is_kept_once(cache):
    first = cache.start(range(8))
    second = cache.start(range(10), look_up=False)
    assert (first, second) == ([0, 1], [0, 1, 4])
    assert cache.pool.num_free == 5


@pytest.mark.requirement("E6")
def test_what_was_used_longest_ago_goes_first_and_the_end_before_the_beginning(cache):
    cache.run([1] * 8)
    cache.run([2] * 8)
    cache.run([1] * 8)  # the 2s are now the oldest
    assert cache.pool.num_free == 8
    cache.start(range(10, 30))  # 4 free blocks and one more
    assert (cache.find([2] * 8).length, cache.find([1] * 8).length) == (4, 8)
    cache.start(range(40, 48))
    assert (cache.find([2] * 8).length, cache.find([1] * 8).length) == (0, 4)


@pytest.mark.requirement("E6")
def test_a_block_in_use_is_never_evicted(cache):
    table = cache.start([1] * 8)
    cache.run(range(10, 34))
    assert cache.pool.try_allocate(7) is None
    cache.run(range(50, 74))
    assert cache.cache.blocks(cache.find([1] * 8)) == table
    assert cache.cache.num_evictions == 6


def test_a_lookup_that_was_interrupted_by_evictions_starts_from_what_is_left(cache):
    cache.run(range(12))
    prefix = cache.find(range(12))
    cache.start(range(50, 74))  # 5 free blocks and the last of the three
    cache.cache.match(prefix, array("i", range(12)), 12)
    assert prefix.length == 8
    cache.end(cache.tables[0])
    cache.run(range(80, 112))
    cache.cache.match(prefix, array("i", range(12)), 12)
    assert prefix.length == 0


def test_clear_forgets_what_nobody_holds(cache):
    cache.run(range(8))
    table = cache.start([5] * 4)
    cache.cache.clear()
    cache.check()
    assert len(cache.cache) == 1
    assert cache.cache.blocks(cache.find([5] * 8)) == table


@pytest.mark.requirement("E6")
def test_a_miss_is_explained_by_the_first_token_that_differs(cache):
    cache.run([1, 2, 3, 4, 5, 6, 7, 8])
    cache.run([1, 2, 3, 4, 9, 9, 9, 9])
    assert cache.report([1, 2, 3, 4, 5, 6, 0, 8]) == CacheReport(4, 6, "diverged", 0, 7)
    assert cache.report([1, 2, 3, 9, 5, 6, 7, 8]) == CacheReport(0, 3, "diverged", 9, 4)


@pytest.mark.requirement("E6")
def test_a_miss_where_nobody_went_on_is_new_and_no_miss_is_complete(cache):
    cache.run([1, 2, 3, 4, 5, 6])
    assert cache.report([1, 2, 3, 4, 5, 6, 7, 8]) == CacheReport(4, 4, "new")
    assert cache.report([7] * 8) == CacheReport(0, 0, "new")
    assert cache.report([1, 2, 3, 4, 5, 6]) == CacheReport(4, 4, "complete")


@pytest.mark.requirement("E6")
def test_a_miss_of_what_was_evicted_says_so(cache):
    cache.run([1] * 8)
    cache.run(range(10, 42))
    assert cache.report([1] * 8) == CacheReport(0, 0, "evicted")


def test_an_explanation_never_shows_the_tokens_of_another_salt(cache):
    cache.run([1, 2, 3, 4], salt=b"a")
    assert cache.report([1, 2, 3, 5], salt=b"b") == CacheReport(0, 0, "new")
    assert cache.report([1, 2, 3, 5]) == CacheReport(0, 0, "new")


def test_integrity_check_notices_a_block_held_without_its_prefix(cache):
    table = cache.start(range(8))
    cache.pool.release(table[:1])
    with pytest.raises(AssertionError, match="held without its prefix"):
        cache.cache.check_integrity()
