"""One suite for the stores of questions: SQLite and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_crush.cache.semantic.cache import SemanticBounds, SemanticCache, TextSpace
from glm_crush.cache.semantic.entry import Answer, SemanticEntry, SemanticStore
from glm_crush.cache.semantic.index import SemanticIndex
from glm_crush.cache.semantic.redis import RedisEntries
from glm_crush.cache.semantic.sql import SqlEntries
from glm_crush.errors import StorageError
from glm_crush.storage.connect import connect

pytestmark = pytest.mark.requirement("S5")

START = 2_000_000_000.0  # after today, so that Redis's own clock agrees that nothing has expired
OpenStore = Callable[[], AbstractAsyncContextManager[SemanticStore]]


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> OpenStore:
    @asynccontextmanager
    async def opened() -> AsyncIterator[SemanticStore]:
        if request.param == "redis":
            store = RedisEntries(request.getfixturevalue("redis_url"), clock)
            yield store
            await store.close()
        else:
            database = connect(None, tmp_path / "data")
            entries = SqlEntries(database, clock)
            await entries.open()
            yield entries
            await database.close()

    return opened


def with_store(open_store: OpenStore, work: Callable[[SemanticStore], Any]) -> Any:
    async def run() -> Any:
        async with open_store() as store:
            return await work(store)

    return asyncio.run(run())


def entry(name: str, *, scope: str = "s", tenant: str = "t", seconds: float = 60.0) -> SemanticEntry:
    vector = np.array([1, 2, 3], np.float32)
    return SemanticEntry(name, scope, tenant, vector, f"key of {name}", Answer.of(name, -vector), START + seconds)


def test_a_question_comes_back_as_it_was_with_what_was_seen_of_it(open_store: OpenStore) -> None:
    async def work(store: SemanticStore) -> None:
        await store.put(entry("a"), max_entries=10)
        await store.put(entry("b", scope="other"), max_entries=10)
        for band, right in ((3, True), (3, True), (3, False), (12, True)):
            await store.add_evidence(entry("a"), band, right=right)
        (found,) = await store.load("s")
        assert found.pack() == entry("a").pack()
        assert (found.evidence.right[3], found.evidence.wrong[3], found.evidence.right[12]) == (2, 1, 1)
        assert found.evidence.num_seen == 4

    with_store(open_store, work)


def test_a_new_reply_takes_the_place_of_the_old_one_and_keeps_what_was_seen(open_store: OpenStore) -> None:
    async def work(store: SemanticStore) -> None:
        await store.put(entry("a"), max_entries=10)
        await store.add_evidence(entry("a"), 3, right=True)
        renewed = entry("a")
        renewed.reply_key = "another key"
        await store.put(renewed, max_entries=10)
        (found,) = await store.load("s")
        assert (found.reply_key, found.evidence.num_seen) == ("another key", 1)

    with_store(open_store, work)


def test_the_questions_of_a_tenant_that_expire_first_make_room(open_store: OpenStore) -> None:
    async def work(store: SemanticStore) -> None:
        await store.put(entry("other", tenant="u", seconds=1), max_entries=2)
        for name, seconds in (("a", 50.0), ("b", 40.0), ("c", 60.0)):
            await store.put(entry(name, seconds=seconds), max_entries=2)
        assert {found.entry_id for found in await store.load("s")} == {"other", "a", "c"}

    with_store(open_store, work)


def test_an_expired_question_is_not_found(open_store: OpenStore, clock: Clock) -> None:
    async def work(store: SemanticStore) -> None:
        await store.put(entry("a", seconds=5), max_entries=2)
        clock.now += 5
        assert list(await store.load("s")) == []

    with_store(open_store, work)


def test_everything_can_be_forgotten(open_store: OpenStore) -> None:
    async def work(store: SemanticStore) -> None:
        await store.put(entry("a"), max_entries=2)
        await store.add_evidence(entry("a"), 3, right=True)
        await store.clear()
        await store.put(entry("a"), max_entries=2)
        (found,) = await store.load("s")
        assert found.evidence.num_seen == 0

    with_store(open_store, work)


def test_what_one_server_learns_another_one_gives(open_store: OpenStore) -> None:
    """The first has computed four answers; the second gives them, having computed none."""

    async def embed(text: str) -> TextSpace:
        angle = 0.01 * len(text)
        return TextSpace("space", np.array([np.cos(angle), np.sin(angle)], np.float32))

    async def server() -> SemanticCache:
        opened = await stack.enter_async_context(open_store())

        async def open_it() -> SemanticStore:
            return opened

        return SemanticCache(
            SemanticIndex(max_entries=10, max_bytes=10**6, clock=Clock()),
            embed,
            SemanticBounds(error_bound=0.05, answer_similarity=1.0, max_entries=10, ttl_seconds=60),
            open_store=open_it,
            chance=lambda: 0.5,
            clock=Clock(),
        )

    stack = AsyncExitStack()

    async def run() -> tuple[bool, str]:
        async with stack:
            one, two = await server(), await server()
            for question in ("?" * length for length in (1, 28, 29, 30)):
                found = await one.look_up("t", "c", question)
                assert found is not None
                assert not found.gives_answer
                await one.learn(found, f"key of {len(question)}", "It is Paris.")
            found = await two.look_up("t", "c", "?" * 31)
            assert found is not None
            assert found.nearest is not None
            return found.gives_answer, found.nearest.reply_key

    assert asyncio.run(run()) == (True, "key of 30")


def test_foreign_bytes_are_an_error_that_names_the_remedy() -> None:
    for data in (b"GCS1 cut off", b"", entry("a").pack()[:-4]):
        with pytest.raises(StorageError, match="clear the cache"):
            SemanticEntry.unpack(data)
