"""Several real models in one server, as OpenAI's, Anthropic's and Ollama's clients see them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.serving.app import create_app
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from glm_crush.serving.grpc.services import ModelsService
from glm_crush.serving.model_pool.local_source import LocalSource
from glm_crush.serving.model_pool.pool import ModelPool
from glm_crush.serving.model_pool.residency import Residency
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.served_models import ServedModels
from glm_crush.weights.store import ModelStore
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import tiny_adapter
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files

pytestmark = pytest.mark.requirement("M8")

BODY = {"prompt": [1, 2], "max_tokens": 4, "temperature": 0}
# Many replies one after the other: under way for some seconds.
LONG = {"prompt": [1, 2], "n": 128, "max_tokens": 200, "ignore_eos": True, "stream": True}
ONE_AT_A_TIME = {"crush.max_num_seqs": 1, "crush.speculation": "off"}


@dataclass
class Server:
    """A server over a store: `alpha` and `beta` chat, `vectors` embeds, `torn` is no model."""

    client: httpx2.Client
    models: ServedModels
    home: Path

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def complete(self, model: str | None, **options: Any) -> httpx2.Response:
        return self.post("/v1/completions", **{**BODY, "model": model, **options})

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.client.get("/admin/v1/models").json()["data"]}

    def loaded(self) -> list[str]:
        return [row["name"] for row in self.rows().values() if row["state"] == "loaded"]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    paths = {
        "alpha": tiny_checkpoint("llama", folder, max_position_embeddings=512),
        "beta": tiny_checkpoint("qwen3", folder, max_position_embeddings=256),
        "vectors": encoder_checkpoint("bert", folder, sentence=sentence_files()),
        "torn": tiny_checkpoint("glm4_moe", folder),
    }
    for name, path in paths.items():
        ModelStore(folder).pull(str(path), name=name)
    (paths["torn"] / "model.safetensors").write_bytes(b"torn")
    return folder


@pytest.fixture
def serve(home: Path, loopback_server: Any) -> Iterator[Callable[..., Server]]:
    """Serve the store; arguments are settings, and `start`: names of the models that are pinned."""
    url, current = loopback_server
    pools: list[ModelPool] = []
    client = httpx2.Client(base_url=url, timeout=60)

    def start(*names: str, budget: int | None = None, ttl: float = 300.0, **flags: Any) -> Server:
        flags = {"crush.threads": 1, "crush.kv_cache_tokens": 512, "store.home": str(home), **flags}
        settings = load_settings(flags=flags)
        source = LocalSource(settings, ModelStore(home))
        pool = ModelPool(source, Residency(budget, ttl))
        source.serve(names)
        for name in names:
            pool.load_now(source.prepare(name, pool.residency.limit_bytes(name)))
        pools.append(pool)
        models = ServedModels(pool=pool)
        parts = [Observability(models, settings.observability), GraphqlPart(models, settings.graphql)]
        current.app = create_app(models, ApiSettings(), store=ModelStore(home), parts=parts)
        return Server(client, models, home)

    yield start
    client.close()
    for pool in pools:
        for resident in pool.residents():
            resident.close()


def text_of(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def test_graphql_and_grpc_list_and_use_models_that_are_not_loaded(serve: Any) -> None:
    server = serve("alpha")
    asked = "{ models { name isLoaded contextLength capabilities { chat } } }"
    listed = server.post("/graphql", query=asked).json()["data"]["models"]
    assert [(model["name"], model["isLoaded"], model["contextLength"]) for model in listed] == [
        ("alpha", True, 512),
        ("beta", False, None),
        ("torn", False, None),
        ("vectors", False, None),
    ]
    assert listed[1]["capabilities"] is None
    reply = asyncio.run(ModelsService(server.models).list(pb.ListModelsRequest()))
    assert [(model.name, model.context_length) for model in reply.models] == [
        ("alpha", 512),
        ("beta", 0),
        ("torn", 0),
        ("vectors", 0),
    ]
    ids = server.post("/graphql", query='{ tokenize(text: "hi", model: "beta") }').json()["data"]["tokenize"]
    assert len(ids) > 0
    assert server.loaded() == ["alpha", "beta"]


def test_every_client_gets_the_model_that_it_names(serve: Any) -> None:
    server = serve("alpha")
    messages: Any = [{"role": "user", "content": "hi"}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        status = {model.id: model.status["value"] for model in client.models.list()}  # type: ignore[attr-defined]
        assert status == {"alpha": "loaded", "beta": "unloaded", "torn": "unloaded", "vectors": "unloaded"}
        assert client.models.retrieve("beta").id == "beta"
        replies = [client.chat.completions.create(model=n, messages=messages, max_tokens=2) for n in ("alpha", "beta")]
        assert [reply.model for reply in replies] == ["alpha", "beta"]
        assert len(client.embeddings.create(model="vectors", input="hi").data[0].embedding) == 72
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        assert client.messages.create(model="beta", messages=messages, max_tokens=2).model == "beta"
    with ollama.Client(server.url) as client:
        assert client.chat("beta", messages=messages, options={"num_predict": 2}).done
        shown = {model.model: (model.size, model.expires_at.year) for model in client.ps().models}
    assert shown["alpha"][1] == 9999
    assert shown["beta"][1] < 9999
    assert all(size > 0 for size, _ in shown.values())
    assert server.loaded() == ["alpha", "beta", "vectors"]


def test_a_model_answers_the_same_loaded_on_demand_again_and_beside_another(serve: Any) -> None:
    server = serve("alpha")
    plain = [text_of(server.complete(name)) for name in ("alpha", "beta")]
    assert plain[0] != plain[1]
    server.post("/admin/v1/models/beta/unload")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(server.complete, name) for name in ("alpha", "beta") * 8]
        texts = [text_of(future.result()) for future in futures]
    assert texts == plain * 8
    metrics = server.client.get("/metrics").text
    assert 'glm_model_loads_total{model_name="beta"} 2.0' in metrics
    assert 'glm_model_closed_total{model_name="beta",reason="unloaded"} 1.0' in metrics
    assert "glm_models_loaded 2.0" in metrics


@pytest.mark.parametrize("place", [True, False], ids=["process", "thread"])
def test_the_one_used_longest_ago_makes_room(serve: Any, place: bool) -> None:
    sizes = [row["num_bytes"] for row in load_all(serve("alpha", "beta")).values()]
    server = serve(budget=sum(sizes) - 1, **{"api.engine_process": place})
    for name in ("alpha", "beta"):
        assert server.complete(name).status_code == 200
    assert server.loaded() == ["beta"]
    rows = server.rows()
    assert rows["beta"]["num_bytes"] == sizes[1] == rows["beta"]["weight_bytes"] + rows["beta"]["cache_bytes"]


def load_all(server: Server) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in server.rows().items() if row["state"] == "loaded"}


def test_what_does_not_fit_is_refused_with_the_numbers(serve: Any) -> None:
    sizes = [row["num_bytes"] for row in load_all(serve("alpha", "beta")).values()]
    server = serve("alpha", budget=sizes[0] + 1000)
    reply = server.complete("beta")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_too_large")
    message = reply.json()["error"]["message"]
    assert message.startswith("beta: a KV cache of ")
    assert message.endswith(" It has 1 MiB of weights; 0 MiB are left beside pinned models.")
    server = serve(budget=max(sizes) + 1000, **ONE_AT_A_TIME)
    with server.client.stream("POST", "/v1/completions", json={**LONG, "model": "alpha"}) as busy:
        lines = busy.iter_lines()  # kept: the connection is closed with it
        next(lines)
        reply = server.complete("beta")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_overloaded")
    assert reply.headers["retry-after"] == "2"
    assert "in use or pinned are alpha" in reply.json()["error"]["message"]


def test_a_model_that_cannot_be_loaded_says_why_to_all_that_wait(serve: Any) -> None:
    server = serve("alpha")
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: server.complete("torn"), range(4)))
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.json()["error"]["code"] for reply in replies} == {"model_load_failed"}
    assert "torn could not be loaded: " in replies[0].json()["error"]["message"]
    assert 1 <= int(replies[0].headers["retry-after"]) <= 5
    assert server.complete("alpha").status_code == 200


def children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def test_an_engine_killed_while_it_loads_is_told_to_those_that_wait_and_the_next_load_is_whole(serve: Any) -> None:
    server = serve("alpha")
    before = children()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(server.complete, "beta") for _ in range(2)]
        server.wait_until(lambda: bool(children() - before))
        [child] = children() - before
        os.kill(child, signal.SIGKILL)
        replies = [future.result() for future in futures]
    assert {reply.status_code for reply in replies} == {503}
    assert "was ended by signal 9 (Killed) while it loaded the model" in replies[0].json()["error"]["message"]
    assert server.rows()["beta"]["state"] == "unloaded"
    assert server.post("/admin/v1/models/beta/load").json()["state"] == "loaded"
    assert server.complete("beta").status_code == 200


def test_ollamas_keep_alive_loads_keeps_and_unloads(serve: Any) -> None:
    server = serve("alpha")
    with ollama.Client(server.url) as client:
        assert client.generate("beta", keep_alive="1h").done_reason == "load"
        assert 3500 < server.rows()["beta"]["expires_in_seconds"] <= 3600
        client.generate("beta", "hi", options={"num_predict": 1})  # says nothing, and changes nothing
        assert 3500 < server.rows()["beta"]["expires_in_seconds"] <= 3600
        client.generate("beta", keep_alive=-1)
        assert server.rows()["beta"]["expires_in_seconds"] is None
        assert client.generate("beta", keep_alive=0).done_reason == "unload"
        server.wait_until(lambda: server.rows()["beta"]["state"] == "unloaded")
        assert client.generate("beta", keep_alive=0).done_reason == "unload"  # nothing to do; nothing is loaded for it
        client.embed("vectors", "hi", keep_alive=0)
        client.generate("beta", "hi", keep_alive=0, options={"num_predict": 1})
        server.wait_until(lambda: server.loaded() == ["alpha"])
        with pytest.raises(ollama.ResponseError, match="this model is pinned and stays loaded"):
            client.generate("alpha", keep_alive=0)


def test_operators_load_pin_and_unload(serve: Any) -> None:
    server = serve("alpha", ttl=0.05)
    assert server.post("/admin/v1/models/beta/load", pin=True).json()["pinned"]
    row = server.rows()["beta"]
    assert (row["kind"], row["context_length"], row["is_default"]) == ("chat", 256, False)
    server.client.delete("/admin/v1/models/beta/pin")
    server.wait_until(lambda: server.loaded() == ["alpha"])
    assert server.client.put("/admin/v1/models/vectors/pin").json()["kind"] == "embedding"
    assert server.post("/admin/v1/models/vectors/unload").json()["state"] == "unloaded"
    assert server.post("/admin/v1/models/vectors/unload").status_code == 404
    assert server.post("/admin/v1/models/nobody/load").status_code == 404
    assert server.client.get("/admin/v1/models/nobody").status_code == 404
    server.wait_until(lambda: {row["state"] for row in server.rows().values()} == {"loaded", "unloaded"})
    memory = server.client.get("/admin/v1/models").json()["memory"]
    assert memory["used_bytes"] == memory["pinned_bytes"] == server.rows()["alpha"]["num_bytes"]


def test_a_stream_under_way_ends_whole_though_its_model_is_unloaded(serve: Any) -> None:
    server = serve("alpha", **ONE_AT_A_TIME)
    body = {**LONG, "model": "beta"}
    with ThreadPoolExecutor(1) as pool:
        with server.client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            unloading = pool.submit(server.post, "/admin/v1/models/beta/unload")
            server.wait_until(lambda: server.rows()["beta"]["state"] == "unloading")
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert unloading.result().json()["state"] == "unloaded"


def test_adapters_and_aliases_come_back_with_their_model(serve: Any, tmp_path: Path) -> None:
    server = serve("alpha")
    folder = str(tiny_adapter(tmp_path / "poet", server.home / "qwen3"))
    loaded = server.post("/v1/load_lora_adapter", lora_name="poet", lora_path=folder, base_model_name="beta")
    assert loaded.status_code == 200
    with ollama.Client(server.url) as client:
        client.create("brief", from_="beta", system="Be brief.")
    texts = [text_of(server.complete(name, max_tokens=8)) for name in ("beta", "poet", "brief")]
    assert texts[0] != texts[1]
    server.post("/admin/v1/models/beta/unload")
    assert [text_of(server.complete(name, max_tokens=8)) for name in ("poet", "brief", "beta")] == [
        texts[1],
        texts[2],
        texts[0],
    ]


@pytest.mark.parametrize("name", ["../source", "/etc", "nobody", "alpha/../beta"])
def test_a_request_reaches_names_of_the_store_and_no_paths(serve: Any, name: str) -> None:
    server = serve("alpha")
    reply = server.complete(name)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_without_loading_on_demand_there_is_what_was_started(serve: Any) -> None:
    server = serve("alpha", **{"serving.load_on_demand": "false"})
    assert [card["id"] for card in server.client.get("/v1/models").json()["data"]] == ["alpha"]
    assert server.complete("beta").status_code == 404
