"""A question in other words gets a kept answer over HTTP, in every chat protocol, if caller and operator want it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from glm_crush.cache_settings import CacheSettings
from glm_crush.config import CrushSettings, Settings, StorageSettings
from glm_crush.errors import ConfigError
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.part import ServerPart
from glm_crush.serving.response_cache.part import ResponseCache
from glm_crush.serving.response_cache.question import answer_in, question_in
from glm_crush.serving.served_encoder import ServedEncoder, ServedEncoders
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase
from tests.engine.tiny_encoders import RERANKER, loaded_encoder
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S5")

BEARER = {"authorization": "Bearer boot"}
ONE, SIMILAR = "the cat sat on the mat", "the cat sat on a mat"
Start = Callable[..., RunningServer]


@pytest.fixture
def encoder(tmp_path: Path) -> Iterator[ServedEncoder]:
    made = serve_loaded_encoder("tiny", loaded_encoder(tmp_path / "e"), Settings(crush=CrushSettings(threads=1)))
    yield made
    made.close()


@pytest.fixture
def start(start_server: Callable[..., Any], encoder: ServedEncoder) -> Start:
    """A server that gives a similar answer at once: four in ten may be wrong."""

    def started(
        engine: ScriptedEngine | None = None, *, database: Any = None, guard: Any = None, **settings: Any
    ) -> RunningServer:
        chosen = CacheSettings(**{"semantic": "on", "semantic_error_bound": 0.4, "persist": False} | settings)

        def parts(models: ServedModels) -> list[ServerPart]:
            guarding = [] if guard is None else [GuardPart(models, guard)]
            return [*guarding, ResponseCache(models, chosen, database, chance=lambda: 0.5)]

        encoders = ServedEncoders([encoder])
        server: RunningServer = start_server(engine, parts=parts, key="boot", encoders=encoders, database=database)
        return server

    return started


def chat(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


def post(server: RunningServer, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> Any:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = httpx2.post(f"{server.url}{path}", json=body, headers=BEARER | headers)
    assert reply.status_code == 200, reply.text
    return reply


def outcome(server: RunningServer, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> str:
    return str(post(server, body, path, **headers).headers["x-glm-cache"])


def described(server: RunningServer) -> Any:
    return httpx2.get(f"{server.url}/admin/v1/cache", headers=BEARER).json()


def learnt(server: RunningServer, entries: int = 1) -> None:
    """Wait until what was answered has been learnt, which happens beside the answer."""
    while described(server)["semantic"]["entries"] < entries:
        pass


def opened(server: RunningServer) -> None:
    """Wait until the database is open: it knows that everything was forgotten once."""
    while described(server)["epoch"] != 1:
        pass


PROTOCOLS = {
    "openai": ("/v1/chat/completions", chat),
    "openai, parts": (
        "/v1/chat/completions",
        lambda text: chat("") | {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    ),
    "openai, streamed": ("/v1/chat/completions", lambda text: chat(text, stream=True)),
    "anthropic": ("/v1/messages", lambda text: chat(text, max_tokens=20)),
    "anthropic, streamed": ("/v1/messages", lambda text: chat(text, max_tokens=20, stream=True)),
    "ollama chat": (
        "/api/chat",
        lambda text: {
            "model": "scripted",
            "messages": [{"role": "user", "content": text}],
            "options": {"temperature": 0},
        },
    ),
    "ollama generate, whole": (
        "/api/generate",
        lambda text: {"model": "scripted", "prompt": text, "options": {"temperature": 0}, "stream": False},
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_similar_question_gets_the_kept_answer_and_says_how_similar_it_is(start: Start, protocol: str) -> None:
    server = start()
    path, body = PROTOCOLS[protocol]
    first = post(server, body(ONE), path)
    learnt(server)
    second = post(server, body(SIMILAR), path)
    assert (first.headers["x-glm-cache"], second.headers["x-glm-cache"]) == ("miss", "semantic")
    assert 0.4 < float(second.headers["x-glm-cache-similarity"]) < 1
    assert second.headers["age"] == "0"
    assert second.content == first.content
    assert len(server.engine.prompts) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 2},
        {"stop": ["l"]},
        {"seed": 3},
        {"stream": True},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SIMILAR}]},
        {"messages": [*chat(ONE)["messages"], {"role": "assistant", "content": "a"}, *chat(SIMILAR)["messages"]]},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=["limit", "stop", "seed", "stream", "system prompt", "earlier turns", "template"],
)
def test_similarity_decides_on_the_question_alone(start: Start, change: dict[str, Any]) -> None:
    server = start()
    post(server, chat(ONE))
    learnt(server)
    assert outcome(server, chat(SIMILAR) | change) == "miss"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(ONE, tools=[{"type": "function", "function": {"name": "f"}}])),
        ("/v1/chat/completions", chat(ONE, n=2)),
        ("/v1/chat/completions", chat(ONE, logprobs=True)),
        ("/v1/chat/completions", chat(ONE, response_format={"type": "json_object"})),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("/v1/completions", {"prompt": ONE}),
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": ["x"]}]}),
        ("/api/generate", {"prompt": ONE, "format": "json"}),
        ("/api/generate", {"prompt": ONE, "raw": True}),
        ("/api/generate", {"prompt": ""}),
    ],
)
def test_data_and_continuations_are_never_those_of_a_similar_question(path: str, body: dict[str, Any]) -> None:
    assert question_in(path, body) is None


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/v1/chat/completions", "application/json", b'{"choices":[{"message":{"tool_calls":[{}],"content":"x"}}]}'),
        ("/v1/chat/completions", "text/event-stream", b'data: {"choices":[{"delta":{"tool_calls":[{}]}}]}\n\n'),
        ("/v1/messages", "application/json", b'{"type":"message","content":[{"type":"tool_use"}]}'),
        ("/api/chat", "application/json", b'{"message":{"content":"x","tool_calls":[{}]}}'),
        ("/api/chat", "application/json", b'{"message":{"content":" "}}'),
        ("/v1/chat/completions", "application/json", b"not JSON"),
    ],
)
def test_a_call_of_a_tool_is_no_answer_to_compare(path: str, content_type: str, body: bytes) -> None:
    assert answer_in(path, content_type, body) is None


def test_a_caller_can_do_without_and_an_operator_can_leave_it_to_callers(start: Start) -> None:
    server = start()
    post(server, chat(ONE))
    learnt(server)
    assert outcome(server, chat(SIMILAR), x_glm_cache="exact") == "miss"
    server = start(semantic="asked")
    post(server, chat(ONE), x_glm_cache="semantic")
    learnt(server)
    assert outcome(server, chat(SIMILAR + " ")) == "miss"
    assert outcome(server, chat(SIMILAR), x_glm_cache="semantic") == "semantic"


@pytest.mark.parametrize("control", ["no-cache", "no-store"])
def test_a_caller_who_wants_a_new_answer_gets_no_similar_one(start: Start, control: str) -> None:
    server = start()
    post(server, chat(ONE))
    learnt(server)
    assert outcome(server, chat(SIMILAR), cache_control=control) == {"no-cache": "miss", "no-store": "bypass"}[control]


def test_only_answers_that_may_be_kept_are_given(start: Start) -> None:
    server = start()
    assert outcome(server, chat(ONE, temperature=1.0)) == "bypass"
    assert outcome(server, chat(ONE, temperature=1.0), x_glm_cache="force, semantic") == "miss"
    learnt(server)
    assert outcome(server, chat(SIMILAR, temperature=1.0), x_glm_cache="force, semantic") == "semantic"


def test_an_answer_that_proves_wrong_is_not_given_again(start: Start) -> None:
    """With the bound at 0.2 the first similar question is computed; it has another answer."""
    server = start(
        ScriptedEngine(script=lambda prompt: "yes" if " a mat" in prompt else "no"), semantic_error_bound=0.2
    )
    assert outcome(server, chat(ONE)) == "miss"
    learnt(server)
    assert outcome(server, chat(SIMILAR)) == "miss"
    learnt(server, 2)
    assert [outcome(server, chat(f"the {word} sat on the mat")) for word in ("dog", "rain")] == ["miss", "miss"]


def test_a_key_pays_for_no_comparison_and_needs_no_right_to_the_embedding_model(start: Start, tmp_path: Path) -> None:
    server = start(database=LazyDatabase(StorageSettings(), tmp_path / "db"))
    admin = f"{server.url}/admin/v1"
    httpx2.post(f"{admin}/applications", json={"name": "shop"}, headers=BEARER)
    made = httpx2.post(f"{admin}/keys", json={"application": "shop", "models": ["scripted"]}, headers=BEARER).json()
    own = {"authorization": f"Bearer {made['key']}"}
    first = post(server, chat(ONE), **own)
    learnt(server)
    assert outcome(server, chat(SIMILAR), **own) == "semantic"
    usage = httpx2.get(f"{admin}/usage", headers=BEARER).json()
    assert [row["prompt_tokens"] for row in usage["data"]] == [first.json()["usage"]["prompt_tokens"]]
    assert outcome(server, chat(SIMILAR)) == "miss"  # the operator is another tenant


def test_a_question_in_which_the_guard_finds_something_gets_no_answer_to_other_words(start: Start) -> None:
    server = start(guard=GuardSettings(input="pii=block"))
    post(server, chat(ONE))
    learnt(server)
    assert outcome(server, chat(SIMILAR)) == "semantic"
    asked = httpx2.post(f"{server.url}/v1/chat/completions", json=chat(f"{ONE} to mary@example.com"), headers=BEARER)
    assert asked.status_code == 400
    assert asked.json()["error"]["code"] == "content_filter"


def test_forgetting_everything_forgets_what_was_learnt(start: Start) -> None:
    server = start()
    post(server, chat(ONE))
    learnt(server)
    httpx2.delete(f"{server.url}/admin/v1/cache", headers=BEARER)
    assert described(server)["semantic"]["entries"] == 0
    assert outcome(server, chat(SIMILAR)) == "miss"


def test_what_was_learnt_outlives_a_restart(start: Start, tmp_path: Path) -> None:
    def database() -> LazyDatabase:
        return LazyDatabase(StorageSettings(), tmp_path / "db")

    first = database()
    server = start(database=first, persist=True)
    httpx2.delete(f"{server.url}/admin/v1/cache", headers=BEARER)
    opened(server)
    post(server, chat(ONE))
    learnt(server)
    asyncio.run(first.close())
    server = start(database=database(), persist=True)
    opened(server)
    assert outcome(server, chat(SIMILAR)) == "semantic"
    assert server.engine.prompts == []


def test_the_server_says_at_once_that_it_needs_an_embedding_model(tmp_path: Path) -> None:
    settings = CacheSettings(semantic="on")
    reranker = serve_loaded_encoder(
        "rank", loaded_encoder(tmp_path / "r", **RERANKER), Settings(crush=CrushSettings(threads=1))
    )
    for encoders in (ServedEncoders(), ServedEncoders([reranker])):
        with pytest.raises(ConfigError, match="--embedding-model minilm"):
            ResponseCache(ServedModels(encoders=encoders), settings)
    reranker.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"semantic_error_bound": 0.5}, "less than 0.5"), ({"semantic_answer_similarity": 1.5}, "1 at most")],
)
def test_bounds_out_of_range_are_refused(encoder: ServedEncoder, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ResponseCache(ServedModels(encoders=ServedEncoders([encoder])), CacheSettings(semantic="on", **changed))
