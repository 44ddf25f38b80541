"""Embeddings, reranking and scores over HTTP: the OpenAI client, and the shapes of Jina, Cohere and vLLM."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from glm_crush.config import CrushSettings, EncoderSettings, Settings
from glm_crush.engine.embedder import NativeEmbedder
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.served_encoder import ServedEncoder, ServedEncoders
from tests.engine.tiny_encoders import RERANKER, loaded_encoder

pytestmark = pytest.mark.requirement("S1")

Start = Callable[..., Any]
SETTINGS = Settings(crush=CrushSettings(threads=2), encoders=EncoderSettings(max_queue_size=4))


@pytest.fixture
def embedding_model(tmp_path: Path) -> ServedEncoder:
    return serve_loaded_encoder("tiny-embed", loaded_encoder(tmp_path / "embed"), SETTINGS)


@pytest.fixture
def encoders(embedding_model: ServedEncoder, tmp_path: Path) -> Iterator[ServedEncoders]:
    """An embedding model, and a cross-encoder beside it."""
    reranker = serve_loaded_encoder("tiny-rank", loaded_encoder(tmp_path / "rank", **RERANKER), SETTINGS)
    encoders = ServedEncoders([embedding_model, reranker])
    yield encoders
    for encoder in encoders:
        encoder.close()


def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def post(server: Any, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=20)


def expected(model: ServedEncoder, texts: list[Any]) -> np.ndarray:
    return NativeEmbedder("tiny", model.encoder).embed(texts).vectors


@pytest.mark.parametrize(
    "given",
    ["the cat", ["the cat", "rain", "a dog"], [2, 104, 3], [[2, 104, 3], [2, 93, 3]]],
    ids=["text", "texts", "ids", "lists of ids"],
)
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_openai_client_gets_a_vector_per_input(
    start_server: Start, encoders: ServedEncoders, embedding_model: ServedEncoder, given: Any, encoding: str | None
) -> None:
    """It asks for base64 by itself when nobody says what to send."""
    options = {} if encoding is None else {"encoding_format": encoding}
    with client(start_server(encoders=encoders)) as api:
        reply = api.embeddings.create(model="tiny-embed", input=given, **options)
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    assert [item.index for item in reply.data] == list(range(len(texts)))
    vectors = [item.embedding for item in reply.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(text), "<f4") for text in vectors]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.array(vectors), expected(embedding_model, texts), rtol=0, atol=1e-7)
    assert (reply.object, reply.model, reply.data[0].object) == ("list", "tiny-embed", "embedding")


def test_usage_counts_the_tokens_that_were_read(start_server: Start, encoders: ServedEncoders) -> None:
    with client(start_server(encoders=encoders)) as api:
        usage = api.embeddings.create(model="tiny-embed", input=["the cat", "rain"]).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (7, 7)


def test_dimensions_cut_vectors_and_bring_them_back_to_length_1(
    start_server: Start, encoders: ServedEncoders, embedding_model: ServedEncoder
) -> None:
    server = start_server(encoders=encoders)
    with client(server) as api:
        short = np.array(api.embeddings.create(model="tiny-embed", input="the cat", dimensions=8).data[0].embedding)
    whole = expected(embedding_model, ["the cat"])[0, :8]
    np.testing.assert_allclose(short, whole / np.linalg.norm(whole), atol=1e-6)
    reply = post(server, "/v1/embeddings", input="the cat", dimensions=73)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "dimensions"
    assert "tiny-embed has 72" in reply.json()["error"]["message"]


def test_a_long_input_is_refused_by_name_and_cut_when_asked(start_server: Start, encoders: ServedEncoders) -> None:
    server = start_server(encoders=encoders)
    refused = post(server, "/v1/embeddings", input=["rain", "the cat " * 40])
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "input[1]"
    assert post(server, "/v1/embeddings", input="the cat " * 40, truncate_prompt_tokens=-1).json()["usage"] == {
        "prompt_tokens": 48,
        "total_tokens": 48,
    }
    short = post(server, "/v1/embeddings", input="the cat " * 40, truncate_prompt_tokens=10).json()
    assert short["usage"]["prompt_tokens"] == 10


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"input": []}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [[2, 300]]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimension": 3}, "dimension"),
        ({"input": 3}, "input"),
        ({"model": "tiny-embed"}, "input"),
    ],
)
def test_what_cannot_be_is_a_400_that_names_it(
    start_server: Start, encoders: ServedEncoders, body: dict[str, Any], parameter: str
) -> None:
    reply = post(start_server(encoders=encoders), "/v1/embeddings", **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == parameter


def test_a_model_of_another_kind_is_not_found(start_server: Start, encoders: ServedEncoders) -> None:
    server = start_server(encoders=encoders)
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "a", "documents": ["b"]})):
        reply = post(server, path, model="scripted", **body)
        assert reply.status_code == 404
        assert "there is tiny-" in reply.json()["error"]["message"]
    assert post(server, "/v1/embeddings", model="tiny-rank", input="a").status_code == 404


def test_without_an_embedding_model_the_server_says_how_to_get_one(start_server: Start) -> None:
    reply = post(start_server(), "/v1/embeddings", input="a")
    assert reply.status_code == 404
    assert "--embedding-model minilm" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_best_first(start_server: Start, encoders: ServedEncoders, path: str) -> None:
    documents = ["the cat sat", {"text": "dog in the rain"}, "what is a mat"]
    reply = post(start_server(encoders=encoders), path, model="tiny-rank", query="a cat", documents=documents).json()
    scores = [result["relevance_score"] for result in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert {result["index"] for result in reply["results"]} == {0, 1, 2}
    texts = ["the cat sat", "dog in the rain", "what is a mat"]
    assert all(result["document"]["text"] == texts[result["index"]] for result in reply["results"])
    assert (reply["method"], reply["model"]) == ("cross-encoder", "tiny-rank")
    assert reply["usage"]["total_tokens"] == reply["meta"]["tokens"]["input_tokens"] > 0


def test_only_the_best_are_given_when_so_many_are_wanted(start_server: Start, encoders: ServedEncoders) -> None:
    body = {"query": "a cat", "documents": ["the cat", "rain", "dog"], "top_n": 2, "return_documents": False}
    reply = post(start_server(encoders=encoders), "/v1/rerank", **body).json()
    assert [set(result) for result in reply["results"]] == [{"index", "relevance_score"}] * 2
    assert reply["model"] == "tiny-rank"  # the cross-encoder is preferred


def test_an_embedding_model_reranks_by_cosine_and_says_so(start_server: Start, encoders: ServedEncoders) -> None:
    body = {"model": "tiny-embed", "query": "the cat sat", "documents": ["dog in the rain", "the cat sat"]}
    reply = post(start_server(encoders=encoders), "/v1/rerank", **body).json()
    assert reply["method"] == "cosine"
    assert reply["results"][0]["index"] == 1
    assert reply["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-6)


def test_long_documents_are_cut_unless_the_client_forbids_it(start_server: Start, encoders: ServedEncoders) -> None:
    server = start_server(encoders=encoders)
    body = {"query": "a cat", "documents": ["the cat " * 60]}
    assert post(server, "/v1/rerank", **body).json()["usage"]["total_tokens"] == 48
    assert post(server, "/v1/rerank", **body, max_tokens_per_doc=5).json()["usage"]["total_tokens"] == 10
    refused = post(server, "/v1/rerank", **body, truncation=False)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "documents[0]"


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_come_in_the_order_of_the_pairs(start_server: Start, encoders: ServedEncoders, path: str) -> None:
    server = start_server(encoders=encoders)
    one_to_many = post(server, path, model="tiny-rank", text_1="a cat", text_2=["the cat", "rain"]).json()
    pairs = post(server, path, model="tiny-rank", text_1=["a cat", "a cat"], text_2=["the cat", "rain"]).json()
    assert one_to_many["data"] == pairs["data"]
    assert [item["index"] for item in pairs["data"]] == [0, 1]
    assert (pairs["object"], pairs["data"][0]["object"]) == ("list", "score")
    cosine = post(server, path, model="tiny-embed", text_1=["rain", "dog"], text_2=["rain", "dog"]).json()
    assert [item["score"] for item in cosine["data"]] == pytest.approx([1, 1], abs=1e-6)
    uneven = post(server, path, text_1=["a", "b"], text_2=["c"])
    assert uneven.json()["error"]["param"] == "text_2"


def test_encoders_are_listed_with_what_they_can_do(start_server: Start, encoders: ServedEncoders) -> None:
    server = start_server(encoders=encoders)
    with client(server) as api:
        cards = {card.id: card.model_dump() for card in api.models.list()}
        assert api.models.retrieve("tiny-embed").id == "tiny-embed"
    assert list(cards) == ["scripted", "tiny-embed", "tiny-rank"]
    assert cards["tiny-embed"]["dimensions"] == 72
    assert cards["tiny-embed"]["max_model_len"] == 48
    assert cards["tiny-embed"]["capabilities"]["embeddings"]
    assert not cards["tiny-rank"]["capabilities"]["embeddings"]
    assert cards["tiny-rank"]["capabilities"]["rerank"]


def test_a_stopped_encoder_is_a_503_and_not_ready(start_server: Start, encoders: ServedEncoders) -> None:
    server = start_server(encoders=encoders)
    assert httpx2.get(f"{server.url}/ready").json()["models"] == ["scripted", "tiny-embed", "tiny-rank"]
    for encoder in encoders:
        encoder.close()
    reply = post(server, "/v1/embeddings", input="a")
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    assert httpx2.get(f"{server.url}/ready").json()["stopped"] == ["tiny-embed", "tiny-rank"]


def test_an_encoder_counts_who_uses_it(start_server: Start, encoders: ServedEncoders) -> None:
    post(start_server(encoders=encoders), "/v1/embeddings", input="a")
    assert encoders.num_users("tiny-embed") == 0
