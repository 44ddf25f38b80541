"""What goes to a prefix store and comes back, and when: a store in memory, whose loads end when a test says so."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.engine import Engine
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import OutputCollector
from glm_crush.engine.prefix_cache import Prefix, PrefixCache
from glm_crush.engine.prefix_store.block_load import BlockLoad
from glm_crush.engine.prefix_store.stored_prefixes import StoredPrefixes
from glm_crush.engine.runner import Runner
from glm_crush.engine.scheduler import Scheduler
from glm_crush.types import CacheReport, RequestOutput
from tests.engine.scripted import VOCAB_SIZE, ScriptedExecutor, greedy, make_limits, run

pytestmark = pytest.mark.requirement("E6")

PROMPT = [(token * 7 + 3) % 40 for token in range(22)]  # five full blocks of 4 and two tokens more


class MemoryStore:
    """Blocks in a dictionary. `waits` counts who waited; a load ends at once, or when `finish` is called."""

    takes_blocks = True

    def __init__(self) -> None:
        self.blocks: dict[bytes, np.ndarray] = {}
        self.parents: dict[bytes, bytes] = {}
        self.executor: ScriptedExecutor | None = None
        self.at_once = True
        self.full = False
        self.waits = 0
        self.loads: list[BlockLoad] = []
        self.num_good = 1000
        self.closed = False

    def holds(self, digest: bytes) -> bool:
        return digest in self.blocks

    def save(self, digest: bytes, parent: bytes, block: int) -> bool:
        if self.full:
            return False
        assert self.executor is not None
        out = np.zeros((1, self.executor.block_bytes), np.uint8)
        self.executor.read_blocks(np.array([block], np.int32), out)
        assert digest not in self.blocks or (self.blocks[digest] == out).all()
        self.blocks[digest], self.parents[digest] = out, parent
        return True

    def load(self, digests: Sequence[bytes], blocks: Sequence[int]) -> BlockLoad:
        self.loads.append(BlockLoad(digests, blocks))
        if self.at_once:
            self.finish()
        return self.loads[-1]

    def finish(self) -> None:
        assert self.executor is not None
        load = self.loads[-1]
        for digest, block in list(zip(load.digests, load.blocks, strict=True))[: self.num_good]:
            self.executor.write_blocks(np.array([block], np.int32), self.blocks[digest])
            load.num_loaded += 1
        load.done = True

    def wait(self, load: BlockLoad, timeout_seconds: float) -> None:
        self.waits += 1
        if not load.done:
            self.finish()

    def close(self) -> None:
        self.closed = True


def make(store: MemoryStore, *, num_blocks: int = 64, **limits: int) -> Engine:
    """An engine as after a restart: nothing in its cache."""
    store.executor = ScriptedExecutor(num_blocks=num_blocks)
    step_limits = make_limits(**limits)
    pool = BlockPool(num_blocks, 4)
    cache = PrefixCache(pool)
    return Engine(
        Runner(store.executor, step_limits, block_size=4, vocab_size=VOCAB_SIZE),
        Scheduler(step_limits, pool, cache),
        stored_prefixes=StoredPrefixes(store, cache, pool, EngineMetrics()),
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def reply(engine: Engine, prompt: Sequence[int] = PROMPT, **options: str) -> RequestOutput:
    collector = OutputCollector(engine.add_request(prompt, greedy(6), **options), prompt)
    while not collector.finished:
        for delta in engine.step():
            collector.add(delta)
        engine.check_integrity()
    return collector.output()


def test_a_prompt_that_was_computed_before_a_restart_is_restored(store):
    first = reply(make(store))
    assert len(store.blocks) == 6  # 22 + 5 computed tokens
    engine = make(store)
    second = reply(engine)
    assert second.outputs == first.outputs
    assert second.usage.cached_tokens == 20
    assert second.cache_report == CacheReport(20, 20, "complete")
    assert (engine.metrics.prefix_store_hits, engine.metrics.prefix_cache_hits) == (20, 20)
    assert store.executor is not None
    assert store.executor.steps[0] == (2, 1)


def test_the_digest_of_a_block_follows_from_all_tokens_before_it(store):
    reply(make(store), PROMPT[:8])
    reply(make(store), [9, *PROMPT[1:8]])
    assert len(store.blocks) == 6
    roots = [digest for digest, parent in store.parents.items() if parent == bytes(32)]
    assert len(roots) == 2
    assert all(parent in store.blocks for parent in store.parents.values() if parent != bytes(32))


def test_what_others_ask_meanwhile_is_computed_without_waiting(store):
    reply(make(store))
    store.at_once = False
    engine = make(store)
    slow = engine.add_request(PROMPT, greedy(6))
    quick = engine.add_request([1, 2, 3], greedy(2))
    deltas = engine.step() + engine.step()
    assert [delta.request_id for delta in deltas] == [quick, quick]
    assert store.waits == 0
    engine.check_integrity()
    assert engine.step() == []
    assert store.waits == 1  # now nobody else is there
    assert engine.step()[0].request_id == slow


def test_two_requests_wait_for_one_load(store):
    reply(make(store))
    store.at_once = False
    engine = make(store)
    outputs = run(engine, (PROMPT, greedy(3)), (PROMPT, greedy(3)))
    assert [output.usage.cached_tokens for output in outputs] == [20, 20]
    assert len(store.loads) == 1


def test_what_is_in_the_cache_is_not_loaded_again(store):
    reply(make(store))
    engine = make(store)
    reply(engine, PROMPT[:10])
    assert [len(load.blocks) for load in store.loads] == [2]
    assert reply(engine).usage.cached_tokens == 20
    assert [len(load.blocks) for load in store.loads] == [2, 3]


def test_blocks_that_gave_way_in_the_cache_come_back_from_the_store(store):
    engine = make(store, num_blocks=8)
    first = reply(engine)
    reply(engine, [40, *PROMPT])  # takes every block
    second = reply(engine)
    assert second.outputs == first.outputs
    assert second.usage.cached_tokens == 20
    assert engine.metrics.prefix_store_hits > 0


@pytest.mark.parametrize("num_good", [0, 1, 4])
def test_what_a_damaged_block_stood_before_is_computed(store, num_good):
    first = reply(make(store))
    store.num_good = num_good
    engine = make(store)
    second = reply(engine)
    assert second.outputs == first.outputs
    assert second.usage.cached_tokens == 4 * num_good
    engine.scheduler.check_integrity()


def test_salts_share_nothing_on_disk_either(store):
    reply(make(store), cache_salt="alice")
    assert reply(make(store), cache_salt="bob").usage.cached_tokens == 0
    assert reply(make(store)).usage.cached_tokens == 0
    assert reply(make(store), cache_salt="alice").usage.cached_tokens == 20


def test_no_salt_can_stand_for_a_block():
    """A salt equal to the name of a stored block does not make its first block the next one of that prompt."""
    cache = PrefixCache(BlockPool(4, 4))
    tokens = array("i", range(8))
    first, second = cache.next_digests(Prefix(), tokens, 8)
    [forged] = cache.next_digests(Prefix(first), tokens[4:], 4)
    assert forged != second


def test_a_full_store_takes_the_rest_later_and_what_is_lost_is_counted(store):
    store.full = True
    engine = make(store, num_blocks=8)
    reply(engine)
    assert store.blocks == {}
    store.full = False
    reply(engine, [1])
    assert len(store.blocks) == 6 + 1
    store.full = True
    reply(engine, [41, *PROMPT])
    reply(engine, [42, *PROMPT])  # the blocks before are gone
    store.full = False
    reply(engine, [2])
    assert engine.metrics.prefix_store_drops == 7
    assert reply(make(store), [42, *PROMPT]).usage.cached_tokens == 20


def test_a_request_without_room_is_restored_once_there_is_some(store):
    reply(make(store))
    store.at_once = False
    engine = make(store, num_blocks=11)
    engine.add_request([1] * 17, greedy(8))
    engine.step()
    late = engine.add_request(PROMPT, greedy(6))
    engine.step()
    assert store.loads == []  # 5 blocks are in use, 6 are needed and one must stay free
    run_ids = set()
    while engine.has_unfinished:
        run_ids |= {delta.request_id for delta in engine.step()}
        engine.check_integrity()
    assert late in run_ids
    assert engine.metrics.prefix_store_hits == 20


def test_an_aborted_request_leaves_what_was_loaded_to_others(store):
    reply(make(store))
    store.at_once = False
    engine = make(store)
    request_id = engine.add_request(PROMPT, greedy(6))
    other = engine.add_request([1, 2], greedy(4))
    engine.step()
    engine.abort(request_id)
    engine.check_integrity()
    store.finish()
    assert {delta.request_id for delta in engine.step()} == {other}
    engine.abort(other)
    store.loads.clear()
    assert reply(engine).usage.cached_tokens == 20
    assert store.loads == []


def test_prompt_logprobs_are_computed_though_the_prompt_is_stored(store):
    [first] = run(make(store), (PROMPT, greedy(3, prompt_logprobs=1)))
    [second] = run(make(store), (PROMPT, greedy(3, prompt_logprobs=1)))
    assert second.prompt_logprobs == first.prompt_logprobs
    assert second.usage.cached_tokens == 0


def test_closing_keeps_what_was_computed_last(store):
    engine = make(store)
    engine.add_request(PROMPT, greedy(50))
    engine.step()
    engine.step()
    engine.abort_all()
    store.blocks.clear()
    engine = make(store)
    engine.add_request(PROMPT, greedy(50))
    engine.step()
    engine.close()
    assert store.closed
    assert len(store.blocks) == 5
    engine.check_integrity()
