"""How models come and go under requests that wait, go away, or have them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from glm_crush.errors import AccessDeniedError, ModelLoadError, ModelNotFoundError, ModelTooLargeError, OverloadedError
from glm_crush.serving.gateway.admission import acting
from glm_crush.serving.model_pool.pool import ModelChanges, ModelPool, WrongKindError
from glm_crush.serving.model_pool.residency import Residency
from glm_crush.serving.served_models import ServedModels
from tests.serving.model_pool.fake_source import FakeSource

pytestmark = pytest.mark.requirement("M8")

CHAT: Any = frozenset({"chat"})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pool_of(source: FakeSource, budget: int | None = None, ttl: float = float("inf")) -> tuple[ModelPool, Clock]:
    clock = Clock()
    return ModelPool(source, Residency(budget, ttl), clock=clock), clock


async def ask(pool: ModelPool, name: str, **options: Any) -> str:
    async with pool.lease(name, **options) as resident:
        return resident.name


async def settled(condition: Callable[[], bool]) -> None:
    """Let the event loop and its threads go on until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_all_who_ask_at_once_wait_for_one_load() -> None:
    source = FakeSource({"a": 1})

    async def run() -> list[str]:
        pool, _ = pool_of(source)
        return await asyncio.gather(*(ask(pool, "a") for _ in range(50)))

    assert asyncio.run(run()) == ["a"] * 50
    assert source.log == ["start a"]


def test_a_failed_load_is_told_to_all_who_wait_and_is_tried_again_later() -> None:
    source = FakeSource({"a": 1}, broken={"a"})

    async def run() -> None:
        pool, clock = pool_of(source)
        errors = await asyncio.gather(*(ask(pool, "a") for _ in range(5)), return_exceptions=True)
        assert [str(error) for error in errors] == ["a could not be loaded: a is torn"] * 5
        source.broken.clear()
        with pytest.raises(ModelLoadError, match="a is torn") as caught:  # clients that ask again at once
            await ask(pool, "a")
        assert caught.value.retry_after_seconds == 5.0
        assert source.log == ["start a"]
        clock.now += 5.0
        assert await ask(pool, "a") == "a"
        assert pool.metrics.failures == {"a": 1}
        assert pool.residency.used_bytes == 1

    asyncio.run(run())


def test_an_operator_does_not_have_to_wait_after_a_failure() -> None:
    source = FakeSource({"a": 1}, broken={"a"})

    async def run() -> str:
        pool, _ = pool_of(source)
        with pytest.raises(ModelLoadError):
            await ask(pool, "a")
        source.broken.clear()
        return (await pool.load("a")).name

    assert asyncio.run(run()) == "a"


def test_a_request_that_goes_away_does_not_end_the_load_that_others_wait_for() -> None:
    source = FakeSource({"a": 1}, gates={"a": threading.Event()})

    async def run() -> str:
        pool, _ = pool_of(source)
        first, second = asyncio.create_task(ask(pool, "a")), asyncio.create_task(ask(pool, "a"))
        await settled(lambda: source.log == ["start a"])
        first.cancel()
        await asyncio.wait([first])
        source.gates["a"].set()
        name = await second
        slot = pool.residency.get("a")
        assert slot is not None
        assert slot.num_users == 0
        return name

    assert asyncio.run(run()) == "a"


def test_room_is_free_before_the_next_model_is_loaded() -> None:
    source = FakeSource({"a": 4, "b": 4, "c": 4})

    async def run() -> None:
        pool, clock = pool_of(source, budget=8)
        for name in ("a", "b", "a", "c"):
            clock.now += 1
            await ask(pool, name)
        assert pool.metrics.closed == {("b", "memory"): 1}

    asyncio.run(run())
    assert source.log == ["start a", "start b", "close b", "start c"]


def test_a_model_under_a_request_stays_and_the_other_request_is_told_to_come_back() -> None:
    source = FakeSource({"a": 4, "b": 6, "giant": 9})

    async def run() -> None:
        pool, _ = pool_of(source, budget=8)
        async with pool.lease("a"):
            with pytest.raises(OverloadedError):
                await ask(pool, "b")
            with pytest.raises(ModelTooLargeError):
                await ask(pool, "giant")
        assert await ask(pool, "b") == "b"  # neither refusal is held against it
        assert pool.metrics.failures == {}

    asyncio.run(run())
    assert source.log == ["start a", "close a", "start b"]


def test_two_loads_at_once_share_the_room_and_the_third_is_refused() -> None:
    source = FakeSource({"a": 4, "b": 4, "c": 4}, gates={"a": threading.Event(), "b": threading.Event()})

    async def run() -> None:
        pool, _ = pool_of(source, budget=8)
        asked = [asyncio.create_task(ask(pool, name)) for name in ("a", "b")]
        await settled(lambda: len(source.log) == 2)
        with pytest.raises(OverloadedError):
            await ask(pool, "c")
        for gate in source.gates.values():
            gate.set()
        assert await asyncio.gather(*asked) == ["a", "b"]

    asyncio.run(run())


def test_an_idle_model_is_closed_in_time_and_a_keep_alive_says_for_how_long() -> None:
    source = FakeSource({"a": 1, "b": 1, "c": 1})

    async def run() -> None:
        pool, clock = pool_of(source, ttl=60.0)
        await ask(pool, "a")
        await ask(pool, "b", keep_alive=600.0)
        await ask(pool, "c", keep_alive=0.0)
        await settled(lambda: source.log[-1] == "close c")
        clock.now += 60
        pool.close_idle()
        await settled(lambda: source.log[-1] == "close a")
        assert [resident.name for resident in pool.residents()] == ["b"]
        assert pool.expires_in("b") == 540.0

    asyncio.run(run())


def test_the_timer_closes_it_by_itself() -> None:
    source = FakeSource({"a": 1})

    async def run() -> None:
        pool = ModelPool(source, Residency(None, 0.01))
        await ask(pool, "a")
        await settled(lambda: source.log == ["start a", "close a"])
        await settled(lambda: list(pool.residency) == [])

    asyncio.run(run())


def test_an_unloaded_model_ends_with_its_last_request_and_new_ones_get_a_new_one() -> None:
    source = FakeSource({"a": 4})

    async def run() -> None:
        pool, _ = pool_of(source, budget=8)
        async with pool.lease("a") as old:
            unloading = asyncio.create_task(pool.unload("a"))
            await settled(lambda: pool.residency.get("a") is None)
            async with pool.lease("a") as new:
                assert new is not old
            assert source.log == ["start a", "start a"]
        await unloading
        assert source.log == ["start a", "start a", "close a"]
        with pytest.raises(ModelNotFoundError, match="is not loaded"):
            await pool.unload("b")

    asyncio.run(run())


def test_a_model_of_another_kind_is_not_loaded_in_vain() -> None:
    source = FakeSource({"a": 4, "b": 8}, kinds={"b": "embedding"})

    async def run() -> None:
        pool, _ = pool_of(source, budget=8)
        await ask(pool, "a")
        with pytest.raises(WrongKindError, match="b is an embedding model and cannot do this"):
            await ask(pool, "b", kinds=CHAT)

    asyncio.run(run())
    assert source.log == ["start a"]


def test_a_new_list_of_models_brings_the_new_ones_and_lets_the_old_ones_go() -> None:
    source = FakeSource({"a": 1, "b": 1, "c": 1, "torn": 1}, broken={"torn"})

    async def run() -> ModelChanges:
        pool, _ = pool_of(source)
        await pool.reconcile(["a", "b"])
        async with pool.lease("a"):
            changes = await pool.reconcile(["b", "c", "torn"])
            assert pool.residency.get("a") is None
            assert "close a" not in source.log
        await settled(lambda: source.log[-1] == "close a")
        assert [(r.name, pool.is_pinned(r.name)) for r in pool.residents()] == [("b", True), ("c", True)]
        assert pool.metrics.closed == {("a", "removed"): 1}
        return changes

    changes = asyncio.run(run())
    assert (changes.added, changes.removed) == (("c", "torn"), ("a",))
    assert changes.failed == {"torn": "torn could not be loaded: torn is torn"}


def test_a_name_that_stands_for_another_model_now_is_loaded_anew() -> None:
    source = FakeSource({"a": 1})

    async def run() -> ModelChanges:
        pool, _ = pool_of(source)
        await pool.reconcile(["a=./one"])
        return await pool.reconcile(["a=./two"])

    assert asyncio.run(run()) == ModelChanges(("a",), ("a",), {})
    assert source.log == ["start a", "close a", "start a"]


def test_the_end_of_the_server_closes_models_and_gives_up_loads() -> None:
    source = FakeSource({"a": 1, "b": 1}, gates={"b": threading.Event()})

    async def run() -> None:
        pool, _ = pool_of(source)
        await ask(pool, "a")
        waiting = asyncio.create_task(ask(pool, "b"))
        await settled(lambda: "start b" in source.log)
        await pool.close()
        with pytest.raises(ModelLoadError):
            await waiting

    asyncio.run(run())
    assert source.log == ["start a", "start b", "close a"]


def served_by(source: FakeSource, test: Callable[[ServedModels], Awaitable[None]]) -> None:
    async def run() -> None:
        pool, _ = pool_of(source)
        await test(ServedModels(pool=pool))

    asyncio.run(run())


def test_an_adapter_is_there_again_when_its_model_has_been_loaded_again() -> None:
    async def test(models: ServedModels) -> None:
        async with models.use("a") as base:
            models.add_adapter("poet", "/adapters/poet", base)
        await models.pool.unload("a")
        assert [model.name for model in models] == []
        assert "poet" in models.names()
        async with models.use("poet") as poet:
            assert poet.adapter == "poet"
            assert poet.parent == "a"
            assert poet.engine.adapters == {"poet": "/adapters/poet"}  # type: ignore[attr-defined]
        assert [model.name for model in models] == ["a", "poet"]

    served_by(FakeSource({"a": 1}), test)


def test_what_watches_generations_sees_those_of_models_that_come_later() -> None:
    async def test(models: ServedModels) -> None:
        def watch(model: str, params: Any, deltas: Any) -> Any:
            return deltas

        models.watch_generations(watch)
        async with models.use("a") as model:
            assert model.watches == (watch,)

    served_by(FakeSource({"a": 1}), test)


def test_a_model_that_has_gone_is_held_by_nothing() -> None:
    import gc
    import weakref

    async def test(models: ServedModels) -> None:
        async with models.use("a") as model:
            engine = weakref.ref(model.engine)
        del model
        await models.pool.unload("a")
        gc.collect()
        assert engine() is None

    served_by(FakeSource({"a": 1}), test)


def test_a_key_that_is_not_for_a_model_has_nothing_loaded_for_it() -> None:
    class Refusing:
        def check_model(self, model: str) -> None:
            raise AccessDeniedError(f"the key is not for {model}")

    source = FakeSource({"a": 1})

    async def test(models: ServedModels) -> None:
        refusing: Any = Refusing()
        with acting(refusing), pytest.raises(AccessDeniedError, match="not for a"):
            async with models.use("a"):
                raise AssertionError

    served_by(source, test)
    assert source.log == []
