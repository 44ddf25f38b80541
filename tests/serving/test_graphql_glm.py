"""GraphQL over real engines: tools, formats and reasoning of tiny GLM models, vectors and rankings of tiny encoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.config import ApiSettings, CrushSettings, Settings
from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.serving.served_models import ServedModels
from tests.engine.tiny_encoders import RERANKER, loaded_encoder
from tests.serving.graphql_client import ask, code_of, opened, serve_graphql, subscribe, until
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3", "E2")

FLAG = {
    "name": "set_flag",
    "parameters": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
        "required": ["on", "colour"],
        "additionalProperties": False,
    },
}
REPLY = """mutation ($input: ChatInput!) { chat(input: $input) {
  choices { content reasoning finishReason toolCalls { id name arguments } } usage { reasoningTokens } } }"""
DELTAS = """subscription ($input: ChatInput!) { chat(input: $input) {
  content reasoning finishReason toolCalls { index id name arguments } usage { reasoningTokens } } }"""


@pytest.fixture
def server(glm_models: Any, loopback_server: Any) -> RunningServer:
    url, current = loopback_server
    models = ServedModels(glm_models)
    current.app = create_app(models, ApiSettings(), parts=[GraphqlPart(models, GraphqlSettings())])
    return RunningServer(url, ScriptedEngine())


def given(model: str, **fields: Any) -> dict[str, Any]:
    sampling = {"maxTokens": 150, "seed": 3}
    return {"input": {"model": model, "messages": [{"role": "USER", "content": "Hi"}], "sampling": sampling, **fields}}


def reply(server: RunningServer, variables: dict[str, Any]) -> Any:
    return ask(server, REPLY, variables)["data"]["chat"]["choices"][0]


def streamed(server: RunningServer, variables: dict[str, Any]) -> list[Any]:
    with opened(server) as socket:
        subscribe(socket, "a", DELTAS, variables)
        return [message["payload"]["data"]["chat"] for message in until(socket, "complete")[:-1]]


@pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])
def test_a_required_call_is_made_and_its_stream_adds_up_to_the_whole_reply(server: RunningServer, model: str) -> None:
    options: dict[str, Any] = {"tools": [FLAG], "toolChoice": {"mode": "REQUIRED"}, "parallelToolCalls": False}
    if model != "plain":
        options["thinking"] = False
    whole = reply(server, given(model, **options))
    assert whole["finishReason"] == "TOOL_CALLS"
    [call] = whole["toolCalls"]
    assert call["name"] == "set_flag"
    assert set(json.loads(call["arguments"])) == {"on", "colour"}
    parts = [part for delta in streamed(server, given(model, **options)) for part in delta["toolCalls"]]
    assert [part["name"] for part in parts if part["id"]] == ["set_flag"]
    assert "".join(part["arguments"] for part in parts) == call["arguments"]


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[ab]{3}"}, lambda text: len(text) == 3 and set(text) <= {"a", "b"}),
        ({"jsonSchema": {"type": "boolean"}}, lambda text: text in ("true", "false")),
        ({"grammar": 'start: "x" "y"'}, lambda text: text == "xy"),
    ],
    ids=["choice", "regex", "schema", "grammar"],
)
def test_an_answer_is_held_to_its_form(server: RunningServer, form: Any, fits: Callable[[str], bool]) -> None:
    whole = reply(server, given("glm45", responseFormat=form, thinking=False))
    assert fits(whole["content"])
    text = "".join(delta["content"] for delta in streamed(server, given("glm45", responseFormat=form, thinking=False)))
    assert text == whole["content"]
    query = """mutation ($input: CompletionInput!) { complete(input: $input) { choices { text } } }"""
    completion = {"model": "plain", "prompt": "Hi", "responseFormat": form, "sampling": {"maxTokens": 150}}
    assert fits(ask(server, query, {"input": completion})["data"]["complete"]["choices"][0]["text"])


def test_reasoning_is_a_field_of_its_own_and_can_be_bounded(server: RunningServer) -> None:
    thoughts = []
    for seed in range(4):
        bounded = given("glm47", maxReasoningTokens=5, responseFormat={"choice": ["yes", "no"]}, thinking=True)
        bounded["input"]["sampling"]["seed"] = seed
        answer = ask(server, REPLY, bounded)["data"]["chat"]
        [choice] = answer["choices"]
        assert choice["content"] in ("yes", "no")
        assert answer["usage"]["reasoningTokens"] <= 6  # the tag that ends it included
        assert "".join(delta["reasoning"] for delta in streamed(server, bounded)) == choice["reasoning"]
        thoughts.append(choice["reasoning"])
    assert any(thoughts)


def test_a_form_that_cannot_be_compiled_is_refused_by_its_name(server: RunningServer) -> None:
    response = ask(server, REPLY, given("glm45", responseFormat={"regex": "("}))
    assert code_of(response) == "invalid_parameter"
    assert response["errors"][0]["extensions"]["parameter"] == "responseFormat"


# --- encoders ---


@pytest.fixture
def encoders(tmp_path: Path) -> Any:
    settings = Settings(crush=CrushSettings(threads=2))
    embedding = serve_loaded_encoder("tiny-embed", loaded_encoder(tmp_path / "embed"), settings)
    reranker = serve_loaded_encoder("tiny-rank", loaded_encoder(tmp_path / "rank", **RERANKER), settings)
    served = ServedEncoders([embedding, reranker])
    yield served
    for encoder in served:
        encoder.close()


def test_texts_become_vectors_as_long_as_asked_for(start_server: Any, encoders: Any) -> None:
    server = serve_graphql(start_server, encoders=encoders)
    query = """query ($texts: [String!]!, $dimensions: Int) {
      embed(input: {texts: $texts, dimensions: $dimensions}) { model dimensions vectors promptTokens } }"""
    whole = ask(server, query, {"texts": ["the cat", "rain"]})["data"]["embed"]
    assert (whole["model"], whole["promptTokens"], len(whole["vectors"])) == ("tiny-embed", 7, 2)
    assert {len(vector) for vector in whole["vectors"]} == {whole["dimensions"]}
    short = ask(server, query, {"texts": ["the cat"], "dimensions": 4})["data"]["embed"]
    assert (short["dimensions"], len(short["vectors"][0])) == (4, 4)
    many = ask(server, query, {"texts": ["the cat"] * 1000})["data"]["embed"]
    assert many["vectors"][999] == pytest.approx(whole["vectors"][0], abs=1e-5)


def test_documents_are_put_in_order(start_server: Any, encoders: Any) -> None:
    server = serve_graphql(start_server, encoders=encoders)
    query = """{ rerank(input: {query: "the cat", documents: ["rain", "a cat", "dogs"], topN: 2}) {
      model method results { index relevanceScore document } } }"""
    ranking = ask(server, query)["data"]["rerank"]
    assert (ranking["model"], ranking["method"], len(ranking["results"])) == ("tiny-rank", "cross-encoder", 2)
    scores = [row["relevanceScore"] for row in ranking["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {row["document"] for row in ranking["results"]} <= {"rain", "a cat", "dogs"}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("{ embed(input: {texts: []}) { model } }", "texts"),
        ('{ embed(input: {texts: ["a"], dimensions: 0}) { model } }', "dimensions"),
        ('{ embed(input: {texts: ["a"], model: "none"}) { model } }', "model"),
        ('{ embed(input: {texts: ["a"], truncatePromptTokens: -2}) { model } }', "truncatePromptTokens"),
        ('{ rerank(input: {query: "a", documents: []}) { model } }', "documents"),
        ('{ rerank(input: {query: "a", documents: ["b"], topN: 0}) { model } }', "topN"),
    ],
)
def test_what_encoders_cannot_do_is_refused_by_name(
    start_server: Any, encoders: Any, query: str, parameter: str
) -> None:
    response = ask(serve_graphql(start_server, encoders=encoders), query)
    assert response["errors"][0]["extensions"]["parameter"] == parameter
