"""One suite for every store of replies: memory, SQLite, Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from glm_crush.cache.exact import ExactCache, canonical_key
from glm_crush.cache.memory import MemoryReplies
from glm_crush.cache.redis import RedisReplies
from glm_crush.cache.reply import CachedReply, ReplyStore
from glm_crush.cache.sql import SqlReplies
from glm_crush.errors import StorageError
from glm_crush.storage.connect import connect

pytestmark = pytest.mark.requirement("S5")

START = 2_000_000_000.0  # after today, so that Redis's own clock agrees that nothing has expired
OpenStore = Callable[[], AbstractAsyncContextManager[ReplyStore]]


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> OpenStore:
    memory = MemoryReplies(10_000, clock)

    @asynccontextmanager
    async def opened() -> AsyncIterator[ReplyStore]:
        if request.param == "memory":
            yield memory
        elif request.param == "redis":
            store = RedisReplies(request.getfixturevalue("redis_url"), clock)
            yield store
            await store.close()
        else:
            database = connect(None, tmp_path / "data")
            replies = SqlReplies(database, clock)
            await replies.open()
            yield replies
            await database.close()

    return opened


def with_store(open_store: OpenStore, work: Callable[[ReplyStore], Any]) -> Any:
    async def run() -> Any:
        async with open_store() as store:
            return await work(store)

    return asyncio.run(run())


def reply(body: bytes = b"{}", seconds: float = 60.0) -> CachedReply:
    return CachedReply("application/json", body, START, START + seconds)


def test_a_reply_comes_back_as_it_was(open_store: OpenStore) -> None:
    async def work(store: ReplyStore) -> None:
        await store.put("k", reply(b'{"text": "\x00\xff"}'))
        assert await store.get("k") == reply(b'{"text": "\x00\xff"}')
        assert await store.get("other") is None

    with_store(open_store, work)


def test_the_newest_reply_of_a_key_counts(open_store: OpenStore) -> None:
    async def work(store: ReplyStore) -> None:
        await store.put("k", reply(b"1"))
        await store.put("k", reply(b"2"))
        assert await store.get("k") == reply(b"2")

    with_store(open_store, work)


def test_the_epoch_goes_up_when_everything_is_forgotten(open_store: OpenStore) -> None:
    async def work(store: ReplyStore) -> None:
        assert await store.epoch() == 0
        assert await store.advance_epoch() == 1
        assert await store.epoch() == 1
        assert await store.advance_epoch() == 2

    with_store(open_store, work)


def test_an_expired_reply_is_not_found_in_sql(tmp_path: Path, clock: Clock) -> None:
    async def run() -> None:
        database = connect(None, tmp_path / "data")
        store = SqlReplies(database, clock)
        await store.open()
        await store.put("k", reply(seconds=5))
        clock.now += 5
        assert await store.get("k") is None
        await database.close()

    asyncio.run(run())


def test_replies_outlive_the_process_in_sql(tmp_path: Path) -> None:
    async def first() -> None:
        database = connect(None, tmp_path / "data")
        store = SqlReplies(database)
        await store.open()
        cache = ExactCache(MemoryReplies(10_000), ttl_seconds=60, store=store)
        cache.keep("k", "application/json", b"kept")
        await cache.close()
        await database.close()

    async def second() -> bytes | None:
        database = connect(None, tmp_path / "data")
        store = SqlReplies(database)
        await store.open()
        found = await ExactCache(MemoryReplies(10_000), ttl_seconds=60, store=store).find("k")
        await database.close()
        return None if found is None else found.body

    asyncio.run(first())
    assert asyncio.run(second()) == b"kept"


def test_two_servers_share_replies_and_epochs_through_redis(redis_url: str) -> None:
    async def run() -> None:
        stores = [RedisReplies(redis_url) for _ in range(2)]
        one, two = (ExactCache(MemoryReplies(10_000), ttl_seconds=60, store=s, epoch_seconds=0) for s in stores)
        one.keep("k", "application/json", b"shared")
        await one.close()
        found = await two.find("k")
        assert found is not None
        assert found.body == b"shared"
        await two.advance_epoch()
        other = ExactCache(MemoryReplies(10_000), ttl_seconds=60, store=RedisReplies(redis_url), epoch_seconds=0)
        assert await other.epoch() == 1
        await other.close()
        await two.close()

    asyncio.run(run())


def test_a_store_that_fails_costs_no_request_and_is_counted() -> None:
    async def run() -> None:
        cache = ExactCache(MemoryReplies(10_000), ttl_seconds=60, store=RedisReplies("redis://127.0.0.1:9/0"))
        assert await cache.find("k") is None
        cache.keep("k", "application/json", b"here")
        found = await cache.find("k")
        assert found is not None
        await cache.close()
        assert cache.num_store_failures == 2

    asyncio.run(run())


def test_foreign_bytes_in_a_store_are_an_error_that_names_the_remedy() -> None:
    with pytest.raises(StorageError, match="clear the cache"):
        CachedReply.unpack(b"GCR1 cut off")


def test_keys_are_equal_for_equal_parts_whatever_their_order_and_different_otherwise() -> None:
    assert canonical_key(a={"x": 1, "y": [1, 2]}) == canonical_key(a={"y": [1, 2], "x": 1})
    assert canonical_key(a={"x": 1}) != canonical_key(a={"x": 1.5})
    assert canonical_key(a=["x", "y"]) != canonical_key(a=["xy"])
    assert canonical_key(tenant="a", body="b") != canonical_key(tenant="ab", body="")
