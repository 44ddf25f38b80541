"""Vectors over Ollama's API, from a tiny embedding model through the real client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import ollama
import pytest

from glm_crush.config import CrushSettings, Settings
from glm_crush.engine.embedder import NativeEmbedder
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.served_encoder import ServedEncoder, ServedEncoders
from tests.engine.tiny_encoders import loaded_encoder

pytestmark = pytest.mark.requirement("S2")

Start = Callable[..., Any]
TEXTS = ["the cat", "rain"]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ServedEncoder]:
    model = serve_loaded_encoder("tiny", loaded_encoder(tmp_path), Settings(crush=CrushSettings(threads=1)))
    yield model
    model.close()


@pytest.fixture
def api(start_server: Start, model: ServedEncoder) -> Iterator[ollama.Client]:
    with ollama.Client(start_server(encoders=ServedEncoders([model])).url) as client:
        yield client


@pytest.fixture
def post(start_server: Start, model: ServedEncoder) -> Callable[..., httpx2.Response]:
    server = start_server(encoders=ServedEncoders([model]))
    return lambda path, **body: httpx2.post(f"{server.url}/api/{path}", json={"model": "tiny", **body}, timeout=20)


def test_each_text_has_a_vector_of_length_1(api: ollama.Client, model: ServedEncoder) -> None:
    reply = api.embed("tiny:latest", TEXTS)
    own = NativeEmbedder("tiny", model.encoder).embed(TEXTS)
    vectors = own.vectors / np.linalg.norm(own.vectors, axis=1, keepdims=True)
    assert np.allclose(reply.embeddings, vectors, atol=1e-6)
    assert reply.prompt_eval_count == own.num_tokens
    assert reply.total_duration >= reply.load_duration > 0
    [one] = api.embed("tiny", "rain", dimensions=4).embeddings
    assert len(one) == 4
    assert np.isclose(np.linalg.norm(one), 1, atol=1e-6)


def test_the_older_route_gives_the_models_own_vector(api: ollama.Client, model: ServedEncoder) -> None:
    own = NativeEmbedder("tiny", model.encoder).embed(["rain"]).vectors[0]
    assert np.allclose(api.embeddings("tiny", "rain").embedding, own, atol=1e-6)


def test_nothing_to_embed_only_asks_for_the_model(post: Callable[..., httpx2.Response]) -> None:
    assert post("embed", input=[]).json()["embeddings"] == []
    assert post("embeddings").json() == {"embedding": []}


def test_a_long_text_is_cut_unless_it_may_not_be(post: Callable[..., httpx2.Response], model: ServedEncoder) -> None:
    long = "cat " * (model.encoder.max_length + 5)
    assert post("embed", input=long).json()["prompt_eval_count"] == model.encoder.max_length
    assert post("embed", input=long, options={"num_ctx": 8}).json()["prompt_eval_count"] == 8
    refused = post("embed", input=long, truncate=False)
    assert refused.status_code == 400
    assert list(refused.json()) == ["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("embed", {"input": 5}, 400, "input is 5"),
        ("embed", {"input": "a", "dimensions": 5000}, 400, "dimensions is 5000"),
        ("embed", {"input": "a", "keep_alive": "0s"}, 400, "keep_alive is '0s'"),
        ("embed", {"input": "a", "options": {"num_ctx": 10**6}}, 400, "options.num_ctx is 1000000"),
        ("embed", {"input": ["a"] * 3000}, 400, "input holds 3000 texts"),
        ("embed", {"input": "a", "model": "other"}, 404, "no embedding model 'other'"),
        ("embeddings", {"prompt": ["a"]}, 400, "prompt is ['a']"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    post: Callable[..., httpx2.Response], path: str, body: Any, status: int, words: str
) -> None:
    response = post(path, **body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert words in response.json()["error"]


def test_embedding_models_are_listed_and_shown(api: ollama.Client, model: ServedEncoder) -> None:
    listed = {row.model: row for row in api.list().models}
    assert set(listed) == {"scripted", "tiny"}
    assert listed["tiny"].details.family == "bert"  # type: ignore[union-attr]
    assert api.show("tiny:latest").capabilities == ["embedding"]
    assert {row.name: row.context_length for row in api.ps().models}["tiny"] == model.encoder.max_length


def test_an_embedding_model_that_is_served_cannot_be_removed_nor_its_name_taken(api: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="tiny is being served"):
        api.delete("tiny:latest")
    with pytest.raises(ollama.ResponseError, match="tiny is a model already"):
        api.copy("scripted", "tiny")
