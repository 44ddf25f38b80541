"""When a database is opened to look keys up: at once where callers need one, else after a pause or when one comes."""

from __future__ import annotations

import asyncio

import pytest

from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.key_watch import KeyWatch

pytestmark = pytest.mark.requirement("S6")


@pytest.mark.parametrize(("at_once", "num_opened"), [(True, 1), (False, 0)])
def test_the_database_is_opened_at_once_only_where_keys_are_needed(at_once: bool, num_opened: int) -> None:
    opened = []

    async def open_stores() -> None:
        opened.append(True)

    async def start() -> int:
        watch = KeyWatch(KeyRing(), open_stores, lambda: "2026-11", poll_seconds=3600.0)
        watch.start(at_once=at_once)
        for _ in range(10):
            await asyncio.sleep(0)
        started = len(opened)
        await watch.refresh()  # a key has come that nobody knows
        assert opened
        await watch.close()
        return started

    assert asyncio.run(start()) == num_opened
