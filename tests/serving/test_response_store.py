"""Stored responses on both databases: leases, chains, expiry; and what becomes of work whose server is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from glm_crush.serving.openai.responses.protocol import ResponseRequest
from glm_crush.serving.openai.responses.service import ResponseService
from glm_crush.serving.openai.responses.store import ResponseStore, StoredResponse
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from tests.serving.scripted import ByteCodec, ScriptedEngine
from tests.storage.databases import OpenDatabase

pytestmark = [pytest.mark.requirement("S1"), pytest.mark.requirement("S9")]


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def stored(name: str, previous: str | None = None, *, at: float = 1000.0, **fields: Any) -> StoredResponse:
    values: dict[str, Any] = {
        "id": name,
        "tenant": "a",
        "previous_id": previous,
        "created_at": at,
        "status": "in_progress",
        "background": False,
        "request": {"input": "Hi"},
        "input": [],
        "body": {"id": name, "status": "in_progress", "output": [], "text": "\u0000é"},
    }
    return StoredResponse(**{**values, **fields})


Scenario = Callable[[Clock, Callable[[str], Awaitable[ResponseStore]]], Awaitable[Any]]


def run(open_database: OpenDatabase, scenario: Scenario) -> Any:
    """Run a scenario with a clock and a way to make the store of a server, by its name."""

    async def main() -> Any:
        clock = Clock()
        async with open_database() as database:

            async def server(name: str) -> ResponseStore:
                store = ResponseStore(database, owner=name, ttl_seconds=100, now=clock)
                await store.open()
                return store

            return await scenario(clock, server)

    return asyncio.run(main())


def test_what_is_stored_comes_back_as_it_was(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        store = await server("one")
        await store.add(stored("r"), [])
        return await store.find("a", "r"), await store.find("b", "r"), await store.find("a", "q")

    assert run(open_database, scenario) == (stored("r"), None, None)


def test_a_chain_is_oldest_first_and_lives_as_long_as_its_youngest(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        store = await server("one")
        chain: list[StoredResponse] = []
        for name, previous in (("r1", None), ("r2", "r1"), ("r3", "r2")):
            await store.add(stored(name, previous, at=clock.time), chain)
            chain = await store.chain("a", name)
            clock.time += 60
        assert [response.id for response in chain] == ["r1", "r2", "r3"]
        clock.time = 1219
        assert len(await store.chain("a", "r3")) == 3
        assert await store.sweep() == 0
        clock.time = 1220
        assert await store.chain("a", "r3") is None
        return await store.sweep()

    assert run(open_database, scenario) == 3


def test_a_chain_with_a_gap_is_none(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        store = await server("one")
        await store.add(stored("r1"), [])
        await store.add(stored("r2", "r1"), [])
        assert await store.delete("a", "r1")
        return await store.chain("a", "r2")

    assert run(open_database, scenario) is None


def test_an_end_is_stored_once_and_only_by_its_server(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        one, two = await server("one"), await server("two")
        await one.add(stored("r"), [])
        done = {"id": "r", "status": "completed", "output": []}
        outcomes = [await two.finish("r", done), await one.finish("r", done, ["e"]), await one.finish("r", done)]
        return outcomes, (await one.find("a", "r")).events

    assert run(open_database, scenario) == ([False, True, False], ("e",))


def test_what_is_not_renewed_is_claimed_by_one_other_server(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        one, two, three = await server("one"), await server("two"), await server("three")
        await one.add(stored("kept"), [])
        await one.add(stored("lost"), [])
        clock.time += 10
        assert await one.renew({"kept"}) == {"kept"}
        clock.time += 10
        claims = await asyncio.gather(two.claim_abandoned(), three.claim_abandoned())
        names = sorted([response.id, response.attempts] for claim in claims for response in claim)
        return names, await one.renew({"kept", "lost"})

    assert run(open_database, scenario) == ([["lost", 2]], {"kept"})


# --- recovery ---


def served(engine: ScriptedEngine) -> ServedModels:
    return ServedModels(
        [ServedModel(name="scripted", engine=engine, codec=ByteCodec(), context_length=1000, vocab_size=256)]
    )


def crash(
    open_database: OpenDatabase, then: Callable[[ResponseService, Clock, str], Awaitable[Any]], **body: Any
) -> Any:
    """A server dies in the middle of a response; another one starts when its lease has run out."""

    async def scenario(clock: Clock, server: Any) -> Any:
        engine = ScriptedEngine(hold_after=2)
        dying = ResponseService(served(engine), await server("dying"))
        response = await dying.create(ResponseRequest.model_validate({"input": "Hi", **body}), "a")
        await asyncio.to_thread(engine.holding.wait, 20)
        clock.time += 16
        heir = ResponseService(served(ScriptedEngine()), await server("heir"))
        outcome = await then(heir, clock, response.body["id"])
        await heir.close()
        await response.cancel()
        return outcome

    return run(open_database, scenario)


async def settled(service: ResponseService, response_id: str) -> StoredResponse:
    live = service.live(response_id)
    if live is not None:
        await live.ended()
    return await service.find("a", response_id)


def test_a_response_whose_server_is_gone_has_failed(open_database: OpenDatabase) -> None:
    async def then(heir: ResponseService, clock: Clock, response_id: str) -> Any:
        assert await heir.recover() == 1
        return (await settled(heir, response_id)).body

    body = crash(open_database, then)
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")
    assert "send the request again" in body["error"]["message"]


def test_whoever_asks_for_it_learns_that_it_failed_without_waiting(open_database: OpenDatabase) -> None:
    async def then(heir: ResponseService, clock: Clock, response_id: str) -> Any:
        return (await heir.find("a", response_id)).status

    assert crash(open_database, then) == "failed"


def test_a_background_response_is_begun_again_with_the_same_seed(open_database: OpenDatabase) -> None:
    async def then(heir: ResponseService, clock: Clock, response_id: str) -> Any:
        seed = (await heir.store.find("a", response_id)).request["seed"]  # type: ignore[union-attr]
        await heir.recover()
        run = heir.live(response_id)
        assert run is not None
        assert run._turn.params.seed == seed
        return (await settled(heir, response_id)).body

    body = crash(open_database, then, background=True)
    assert (body["status"], body["output"][0]["content"][0]["text"]) == ("completed", "Hello")


def test_a_background_stream_cannot_go_on_and_has_failed(open_database: OpenDatabase) -> None:
    async def then(heir: ResponseService, clock: Clock, response_id: str) -> Any:
        await heir.recover()
        return (await settled(heir, response_id)).status

    assert crash(open_database, then, background=True, stream=True) == "failed"


def test_a_response_that_takes_its_servers_down_is_not_begun_for_ever(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        store = await server("one")
        await store.add(stored("r", background=True, status="queued", attempts=3), [])
        clock.time += 16
        service = ResponseService(served(ScriptedEngine()), await server("two"))
        await service.recover()
        return (await settled(service, "r")).status

    assert run(open_database, scenario) == "failed"


def test_a_server_that_stops_in_order_leaves_its_work_to_the_next_at_once(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        stopping = ResponseService(served(ScriptedEngine(hold_after=2)), await server("stopping"))
        request = ResponseRequest.model_validate({"input": "Hi", "background": True})
        response_id = (await stopping.create(request, "a")).body["id"]
        await stopping.close()
        heir = ResponseService(served(ScriptedEngine()), await server("heir"))
        await heir.recover()
        body = (await settled(heir, response_id)).body
        await heir.close()
        return body["status"]

    assert run(open_database, scenario) == "completed"


def test_a_response_cancelled_at_another_server_is_not_completed_by_its_own(open_database: OpenDatabase) -> None:
    async def scenario(clock: Clock, server: Any) -> Any:
        engine = ScriptedEngine(hold_after=2)
        owner = ResponseService(served(engine), await server("owner"))
        other = ResponseService(served(ScriptedEngine()), await server("other"))
        request = ResponseRequest.model_validate({"input": "Hi", "background": True})
        run = await owner.create(request, "a")
        await asyncio.to_thread(engine.holding.wait, 20)
        body = await other.cancel("a", run.body["id"])
        assert body["status"] == "cancelled"
        assert await owner.store.renew({run.body["id"]}) == set()
        await run.cancel()
        return (await other.find("a", run.body["id"])).status

    assert run(open_database, scenario) == "cancelled"
