"""Limits that several servers share through a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import redis

from glm_crush.errors import ConfigError, OverloadedError
from glm_crush.serving.gateway.limits import Charge, LimitReached
from glm_crush.serving.gateway.redis_limits import RedisLimits
from tests.abuse.processes import server_process
from tests.serving.gateway.conftest import Serve
from tests.serving.gateway.test_keys_over_http import CHAT, CHAT_PATH, chat, make_key

pytestmark = pytest.mark.requirement("S6")


def rate(cost: int, limit: int = 60) -> Charge:
    return Charge("requests_per_minute", "rate", limit, cost)


def slots(cost: int = 1, limit: int = 2) -> Charge:
    return Charge("concurrency", "slots", limit, cost)


def budget(cost: int, window: str = "2026-11-22") -> Charge:
    return Charge("tokens_per_day", "budget", 100, cost, window, 3600.0)


def with_two(url: str, work: Callable[[RedisLimits, RedisLimits], Awaitable[None]], lease_seconds: float = 30) -> None:
    """Two servers' stores on one Redis."""

    async def run() -> None:
        stores = [RedisLimits(url, lease_seconds=lease_seconds) for _ in range(2)]
        try:
            await work(stores[0], stores[1])
        finally:
            for store in stores:
                await store.close()

    asyncio.run(run())


def test_what_one_server_takes_the_other_finds_taken(redis_url: str) -> None:
    async def scenario(one: RedisLimits, other: RedisLimits) -> None:
        [state] = await one.take("key_a", [rate(50)])
        assert (state.remaining, round(state.reset_seconds)) == (10, 50)
        with pytest.raises(LimitReached) as reached:
            await other.take("key_a", [rate(20)])
        assert 9 < (reached.value.retry_after_seconds or 0) <= 10
        await other.take("key_b", [rate(60)])

    with_two(redis_url, scenario)


def test_what_is_settled_in_one_server_is_there_for_the_other(redis_url: str) -> None:
    async def scenario(one: RedisLimits, other: RedisLimits) -> None:
        await one.take("key_a", [rate(60), slots(limit=1), budget(100)])
        one.settle("key_a", [rate(-60), slots(-1, limit=1), budget(-99)])
        await one.close()
        states = await other.take("key_a", [rate(60), slots(limit=1), budget(99)])
        assert [state.remaining for state in states] == [0, 0, 0]

    with_two(redis_url, scenario)


def test_all_charges_are_taken_or_none(redis_url: str) -> None:
    async def scenario(one: RedisLimits, other: RedisLimits) -> None:
        with pytest.raises(LimitReached) as reached:
            await one.take("key_a", [rate(60), slots(), budget(101)])
        assert (reached.value.charge.name, reached.value.retry_after_seconds) == ("tokens_per_day", None)
        await other.take("key_a", [rate(60), slots(), budget(100)])

    with_two(redis_url, scenario)


def test_a_hundred_takes_at_once_from_two_servers_get_exactly_the_limit(redis_url: str) -> None:
    async def scenario(one: RedisLimits, other: RedisLimits) -> None:
        charge = Charge("tokens_per_day", "budget", 37, 1, "2026-11-22", 3600.0)
        takes = [(one, other)[number % 2].take("key_a", [charge]) for number in range(100)]
        outcomes = await asyncio.gather(*takes, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 37
        assert sum(isinstance(outcome, LimitReached) for outcome in outcomes) == 63

    with_two(redis_url, scenario)


def test_slots_of_a_server_that_died_come_back_and_those_of_a_living_one_stay(redis_url: str) -> None:
    async def scenario(dead: RedisLimits, living: RedisLimits) -> None:
        await living.take("key_a", [slots()])
        await dead.take("key_a", [slots()])
        assert dead._task is not None
        dead._task.cancel()
        dead._task = asyncio.create_task(asyncio.sleep(0))
        taken = 0
        for _ in range(200):
            try:
                await living.take("key_a", [slots()])
                taken += 1
                break
            except LimitReached:
                await asyncio.sleep(0.05)
        assert taken == 1
        with pytest.raises(LimitReached):
            await living.take("key_a", [slots()])

    with_two(redis_url, scenario, lease_seconds=0.4)


def test_a_budget_that_redis_lost_begins_with_what_the_database_knows(redis_url: str) -> None:
    async def scenario() -> None:
        store = RedisLimits(redis_url, lambda owner, name, window: 90)
        with pytest.raises(LimitReached) as reached:
            await store.take("key_a", [budget(11)])
        assert reached.value.used == 90
        await store.close()

    asyncio.run(scenario())


def test_counters_go_when_they_are_no_longer_needed(redis_url: str) -> None:
    async def scenario(one: RedisLimits, _: RedisLimits) -> None:
        await one.take("key_a", [rate(1), slots(), budget(1)])

    with_two(redis_url, scenario)
    with redis.Redis.from_url(redis_url) as client:
        lifetimes = sorted(client.ttl(name) for name in client.scan_iter("glm:limit:*"))
    assert [0 < seconds <= most for seconds, most in zip(lifetimes, (30, 120, 7200), strict=True)] == [True] * 3


def test_without_its_redis_a_limit_is_not_no_limit() -> None:
    async def scenario() -> None:
        store = RedisLimits("redis://127.0.0.1:1/0")
        with pytest.raises(OverloadedError, match="Redis does not answer"):
            await store.take("key_a", [rate(1)])
        await store.close()

    asyncio.run(scenario())


def test_an_address_that_is_none_is_refused_at_the_start(serve: Serve) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.redis_url"):
        serve(redis_url="localhost:6379")


def test_two_server_processes_share_the_limits_of_a_key(redis_url: str, tmp_path: Path) -> None:
    with server_process(tmp_path, redis_url=redis_url) as one, server_process(tmp_path, redis_url=redis_url) as other:
        limits = {"requests_per_minute": 20, "tokens_per_minute": 10_000, "concurrency": 16}
        made = make_key(one.url, limits=limits)
        urls = [one.url, other.url] * 30
        started = time.monotonic()
        headers = {"authorization": f"Bearer {made['key']}"}
        with httpx2.Client(headers=headers) as client, ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda url: client.post(f"{url}{CHAT_PATH}", json=CHAT), urls))
        statuses = [reply.status_code for reply in replies]
        refilled = (time.monotonic() - started) / 3
        assert set(statuses) == {200, 429}
        assert 20 <= statuses.count(200) <= 20 + refilled
        served_by = {url for url, reply in zip(urls, replies, strict=True) if reply.status_code == 200}
        assert served_by == {one.url, other.url}
        assert all("x-ratelimit-remaining-requests" in reply.headers for reply in replies)


def test_a_server_that_lost_its_redis_answers_503_to_keys_with_limits_and_serves_the_others(
    serve: Serve,
) -> None:
    url = serve(redis_url="redis://127.0.0.1:1/0").url
    limited, free = make_key(url, limits={"requests_per_minute": 20}), make_key(url)
    refused = chat(url, limited["key"])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert chat(url, free["key"]).status_code == 200
    assert httpx2.get(f"{url}/health").status_code == 200
