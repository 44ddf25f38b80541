"""A deterministic answer is computed once: later, at the same time, and for nobody else's tenant or model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from glm_crush.config import CacheSettings, StorageSettings
from glm_crush.serving.response_cache.part import ResponseCache
from glm_crush.serving.response_cache.policy import is_cacheable_path
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S5")

BEARER = {"authorization": "Bearer boot"}  # the operator's own key: /admin asks for it
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


@pytest.fixture
def cached(start_server: Callable[..., Any]) -> Callable[..., RunningServer]:
    def start(engine: ScriptedEngine | None = None, **settings: Any) -> RunningServer:
        chosen = CacheSettings(persist=False)
        server: RunningServer = start_server(engine, parts=lambda m: [ResponseCache(m, chosen)], key="boot", **settings)
        return server

    return start


def post(server: RunningServer, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> Any:
    reply = httpx2.post(
        f"{server.url}{path}", json=body, headers=BEARER | {k.replace("_", "-"): v for k, v in headers.items()}
    )
    return reply, reply.headers.get("x-glm-cache")


def test_the_same_greedy_question_is_computed_once(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    first, outcome = post(server, CHAT)
    again, second_outcome = post(server, dict(reversed(CHAT.items())))
    assert (outcome, second_outcome) == ("miss", "hit")
    assert again.content == first.content
    assert again.headers["age"] == "0"
    assert len(server.engine.prompts) == 1


def test_a_stream_is_kept_and_given_again_whole(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    first, _ = post(server, CHAT | {"stream": True})
    again, outcome = post(server, CHAT | {"stream": True})
    assert outcome == "hit"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.text == first.text
    assert again.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.0}, {"temperature": None}],
    ids=["sampled", "default"],
)
def test_an_answer_left_to_chance_is_not_kept(cached: Callable[..., RunningServer], change: dict[str, Any]) -> None:
    server = cached()
    outcomes = [post(server, CHAT | change)[1] for _ in range(2)]
    assert outcomes == ["bypass", "bypass"]
    assert len(server.engine.prompts) == 2


def test_a_seed_or_the_callers_word_makes_it_keepable(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    sampled = CHAT | {"temperature": 1.0}
    assert [post(server, sampled | {"seed": 3})[1] for _ in range(2)] == ["miss", "hit"]
    assert [post(server, sampled, x_glm_cache="force")[1] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "ho"}]},
        {"max_tokens": 2},
        {"stop": ["l"]},
        {"n": 2},
        {"stream": True},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_can_change_the_answer_is_part_of_the_key(
    cached: Callable[..., RunningServer], change: dict[str, Any]
) -> None:
    server = cached()
    post(server, CHAT)
    assert post(server, CHAT | change)[1] != "hit"


def test_who_asks_within_a_tenant_is_not(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    post(server, CHAT | {"user": "one"})
    assert post(server, CHAT | {"user": "two"})[1] == "hit"


def test_a_kept_answer_does_not_stand_in_for_a_refusal(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    post(server, CHAT)
    for name, value in (("user", 5), ("metadata", {"a": "b"}), ("metadata", 1), ("keep_alive", 0), ("user", ["x"])):
        reply, _ = post(server, CHAT | {name: value})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
    asked = {"model": "scripted", "max_tokens": 4, "temperature": 0, "messages": CHAT["messages"]}
    assert post(server, asked | {"metadata": {"user_id": "one"}}, "/v1/messages")[1] == "miss"
    assert post(server, asked | {"metadata": {"user_id": "two"}}, "/v1/messages")[1] == "hit"
    assert post(server, asked | {"metadata": {"other": "x"}}, "/v1/messages")[0].status_code == 400
    assert post(server, asked | {"user": "x"}, "/v1/messages")[0].status_code == 400


def test_the_default_model_has_the_same_answers_by_every_name(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    post(server, CHAT)
    assert post(server, CHAT | {"model": "default"})[1] == "hit"


def test_a_key_gets_no_kept_answer_of_a_model_that_it_may_not_use(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    database = LazyDatabase(StorageSettings(), tmp_path)
    settings = CacheSettings(persist=False)
    server = start_server(database=database, parts=lambda m: [ResponseCache(m, settings)], key="boot")

    def made(models: list[str]) -> str:
        body = {"application": "shop", "name": models[0], "models": models}
        return str(httpx2.post(f"{server.url}/admin/v1/keys", json=body, headers=BEARER).json()["key"])

    httpx2.post(f"{server.url}/admin/v1/applications", json={"name": "shop"}, headers=BEARER)
    first, _ = post(server, CHAT, authorization=f"Bearer {made(['scripted'])}")
    second, _ = post(server, CHAT, authorization=f"Bearer {made(['other'])}")
    assert (first.status_code, second.status_code) == (200, 403)


def test_embeddings_are_not_kept_under_the_name_of_a_chat_model() -> None:
    assert not is_cacheable_path("POST", "/v1/embeddings")


def test_no_store_passes_the_cache_by_and_no_cache_renews(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    post(server, CHAT)
    assert post(server, CHAT, cache_control="no-store")[1] == "bypass"
    assert post(server, CHAT, cache_control="no-cache")[1] == "miss"
    assert post(server, CHAT)[1] == "hit"
    assert len(server.engine.prompts) == 3


def test_failures_and_refusals_are_not_kept(cached: Callable[..., RunningServer]) -> None:
    server = cached(ScriptedEngine(fail_after=2))
    assert [post(server, CHAT)[0].status_code for _ in range(2)] == [500, 500]
    streams = [post(server, CHAT | {"stream": True}) for _ in range(2)]
    assert [outcome for _, outcome in streams] == ["miss", "miss"]
    assert all('"error"' in reply.text for reply, _ in streams)
    refused = [post(server, CHAT | {"max_tokens": -1}) for _ in range(2)]
    assert [(reply.status_code, outcome) for reply, outcome in refused] == [(400, None), (400, None)]


def test_callers_who_ask_at_the_same_time_share_one_computation(cached: Callable[..., RunningServer]) -> None:
    gate, asked = threading.Event(), threading.Event()

    class Gated(ScriptedEngine):
        async def submit(self, *arguments: Any, **options: Any) -> Any:
            import asyncio

            asked.set()
            await asyncio.to_thread(gate.wait, 20)
            async for delta in super().submit(*arguments, **options):
                yield delta

    server = cached(Gated())
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, CHAT)
        assert asked.wait(20)
        others = [pool.submit(post, server, CHAT) for _ in range(3)]
        while httpx2.get(f"{server.url}/admin/v1/cache", headers=BEARER).json()["outcomes"]["joined"] < 3:
            pass
        gate.set()
        results = [future.result() for future in (first, *others)]
    assert [outcome for _, outcome in results] == ["miss", "joined", "joined", "joined"]
    assert len({reply.content for reply, _ in results}) == 1
    assert len(server.engine.prompts) == 1


def test_a_computation_goes_on_for_its_listeners_and_ends_with_the_last(cached: Callable[..., RunningServer]) -> None:
    server = cached(ScriptedEngine(hold_after=1))
    body = CHAT | {"stream": True}
    with httpx2.Client() as one, httpx2.Client() as two:
        first = one.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=BEARER)
        with first:
            assert server.engine.holding.wait(20)
            second = two.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=BEARER)
            reply = second.__enter__()
            assert reply.headers["x-glm-cache"] == "joined"
        assert not server.engine.closed.is_set()
        second.__exit__(None, None, None)
        assert server.engine.closed.wait(20)


def test_the_operator_sees_and_clears_the_cache(cached: Callable[..., RunningServer]) -> None:
    server = cached()
    post(server, CHAT)
    post(server, CHAT)
    described = httpx2.get(f"{server.url}/admin/v1/cache", headers=BEARER).json()
    assert (described["entries"], described["outcomes"]["hit"], described["outcomes"]["miss"]) == (1, 1, 1)
    assert httpx2.delete(f"{server.url}/admin/v1/cache", headers=BEARER).json()["epoch"] == 1
    assert post(server, CHAT)[1] == "miss"
