"""GraphQL by HTTP: queries, mutations and event streams, by its specification, with the errors of every protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from gql import Client, GraphQLRequest
from gql.transport.httpx import HTTPXTransport

from tests.serving.graphql_client import CHAT, STREAM, ask, chat_input, code_of, serve_graphql
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3")

Start = Callable[..., RunningServer]
RESPONSE = "application/graphql-response+json"


@pytest.fixture
def start(start_server: Callable[..., Any]) -> Start:
    return lambda engine=None, **settings: serve_graphql(start_server, engine, **settings)


# --- what is asked and answered ---


def test_a_conversation_is_answered_through_the_usual_client(start: Start) -> None:
    transport = HTTPXTransport(url=f"{start().url}/graphql", timeout=30)
    with Client(transport=transport, fetch_schema_from_transport=True) as client:
        reply = client.execute(GraphQLRequest(CHAT, variable_values=chat_input()))["chat"]
    assert reply["model"] == "scripted"
    assert reply["choices"][0]["content"] == "Hello"
    assert reply["choices"][0]["finishReason"] == "STOP"
    assert reply["usage"] == {"promptTokens": 18, "completionTokens": 5, "totalTokens": 23}


def test_every_sampling_parameter_reaches_the_engine(start: Start) -> None:
    engine = ScriptedEngine()
    floats = {"temperature": 0.5, "topP": 0.9, "minP": 0.1, "typicalP": 0.8, "repetitionPenalty": 1.1}
    penalties = {"presencePenalty": 0.1, "frequencyPenalty": 0.2, "logitBias": [{"tokenId": 65, "bias": -1.5}]}
    counts = {"maxTokens": 3, "minTokens": 1, "topK": 7, "n": 2, "seed": 2**40, "logprobs": 1, "promptLogprobs": 0}
    ends = {"stop": ["x"], "stopTokenIds": [3], "ignoreEos": True, "skipSpecialTokens": False}
    sampling = {**floats, **penalties, **counts, **ends}
    reply = ask(start(engine), CHAT, chat_input(sampling=sampling))["data"]["chat"]
    params = engine.params[0]
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (3, 0.5, 0.9, 7)
    assert (params.min_p, params.typical_p, params.n, params.seed) == (0.1, 0.8, 2, 2**40)
    assert (list(params.stop), list(params.stop_token_ids), params.min_tokens) == (["x"], [3], 1)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (params.logit_bias, params.ignore_eos, params.skip_special_tokens) == ({65: -1.5}, True, False)
    assert (params.logprobs, params.prompt_logprobs) == (1, 0)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["choices"][0]["logprobs"][0]["top_logprobs"][0]["logprob"] == -0.5
    assert reply["promptLogprobs"][0] is None


def test_a_beam_search_is_asked_for_as_elsewhere(start: Start) -> None:
    engine = ScriptedEngine()
    sampling = {"useBeamSearch": True, "beamWidth": 4, "lengthPenalty": 0.5, "earlyStopping": "NEVER", "maxTokens": 2}
    ask(start(engine), CHAT, chat_input(sampling=sampling))
    params = engine.params[0]
    assert (params.beam_width, params.length_penalty, params.early_stopping) == (4, 0.5, "never")


def test_messages_switches_and_prefill_reach_the_template(start: Start) -> None:
    engine = ScriptedEngine()
    messages = [{"role": "DEVELOPER", "content": "be brief"}, {"role": "USER", "content": "hi"}]
    given = {"messages": messages, "thinking": False, "chatTemplateKwargs": {"mood": "fine"}, "prefill": "So"}
    ask(start(engine), CHAT, {"input": given})
    assert engine.prompts == ["system:be brief|user:hi|enable_thinking=False|mood=fine|prefill=So|assistant:"]


def test_a_text_or_token_ids_are_gone_on_with(start: Start) -> None:
    engine = ScriptedEngine()
    server = start(engine)
    query = "mutation ($input: CompletionInput!) { complete(input: $input) { choices { text tokenIds } } }"
    replies = [ask(server, query, {"input": given}) for given in ({"prompt": "abc"}, {"promptTokenIds": [97, 98]})]
    assert engine.prompts == ["abc", "ab"]
    assert replies[0]["data"]["complete"]["choices"] == [{"text": "Hello", "tokenIds": [72, 101, 108, 108, 111]}]


def test_models_and_tokens_are_queries_which_may_come_by_get(start: Start) -> None:
    query = '{ models { name contextLength capabilities { chat tools } } tokenize(text: "hé") }'
    response = httpx.get(f"{start().url}/graphql", params={"query": query})
    assert response.json()["data"] == {
        "models": [{"name": "scripted", "contextLength": 1000, "capabilities": {"chat": True, "tools": False}}],
        "tokenize": [104, 195, 169],
    }


def test_mutations_run_one_after_the_other_and_a_refused_one_leaves_the_others(start: Start) -> None:
    engine = ScriptedEngine()
    query = """mutation {
      a: chat(input: {messages: [{role: USER, content: "one"}]}) { choices { content } }
      b: chat(input: {messages: [{role: USER, content: "two"}], sampling: {temperature: -1}}) { id }
      c: chat(input: {messages: [{role: USER, content: "three"}]}) { choices { content } }
    }"""
    response = ask(start(engine), query)
    hello = {"choices": [{"content": "Hello"}]}
    assert response["data"] == {"a": hello, "b": None, "c": hello}
    assert engine.prompts == ["user:one|assistant:", "user:three|assistant:"]
    assert [error["path"] for error in response["errors"]] == [["b"]]


def test_a_large_conversation_is_read_beside_others(start: Start) -> None:
    messages = [{"role": "USER", "content": "x" * 20}] * 2000
    response = ask(start(), CHAT, {"input": {"messages": messages}})
    assert code_of(response) == "context_length_exceeded"


# --- event streams ---


def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    found = []
    for block in response.text.replace(": ping\n\n", "").strip().split("\n\n"):
        kind, data = (line.partition(":")[2].strip() for line in block.split("\n"))
        found.append((kind, json.loads(data) if data else None))
    return found


def stream(server: RunningServer, query: str, variables: Any = None) -> list[tuple[str, Any]]:
    body = {"query": query, "variables": variables}
    response = httpx.post(f"{server.url}/graphql", json=body, headers={"accept": "text/event-stream"}, timeout=30)
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response)


def test_a_subscription_streams_tokens_as_events(start: Start) -> None:
    events = stream(start(), STREAM, chat_input())
    assert [kind for kind, _ in events] == ["next"] * 5 + ["complete"]
    assert "".join(data["data"]["chat"]["content"] for _, data in events[:-1]) == "Hello"
    assert [data["data"]["chat"]["finishReason"] for _, data in events[:-1]] == [None] * 4 + ["STOP"]
    assert events[-2][1]["data"]["chat"]["usage"] == {"totalTokens": 23}


def test_a_completion_streams_its_tokens(start: Start) -> None:
    query = 'subscription { complete(input: {prompt: "abc"}) { text tokenIds finishReason } }'
    events = stream(start(), query)
    assert [data["data"]["complete"]["text"] for _, data in events[:-1]] == list("Hello")
    assert events[0][1]["data"]["complete"]["tokenIds"] == [72]


def test_queries_and_refusals_are_events_too_where_a_stream_is_wanted(start: Start) -> None:
    server = start()
    assert stream(server, "{ models { name } }")[0][1] == {"data": {"models": [{"name": "scripted"}]}}
    [(kind, refused), (end, _)] = stream(server, "{ nonsense }")
    assert (kind, end, code_of(refused)) == ("next", "complete", "graphql_validation_failed")


def test_a_stream_that_fails_ends_with_an_error_without_internals(start: Start) -> None:
    events = stream(start(ScriptedEngine(fail_after=2)), STREAM, chat_input())
    assert [kind for kind, _ in events] == ["next", "next", "next", "complete"]
    assert code_of(events[2][1]) == "internal_error"
    assert "secret internals" not in json.dumps(events)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_leaves_ends_its_generation(start: Start, accept: str) -> None:
    engine = ScriptedEngine(hold_after=1)
    server = start(engine)
    query = CHAT if accept == "application/json" else STREAM
    body = {"query": query, "variables": chat_input()}
    with (
        httpx.Client() as client,
        pytest.raises(httpx.ReadTimeout),
        client.stream("POST", f"{server.url}/graphql", json=body, headers={"accept": accept}, timeout=0.5) as response,
    ):
        response.read()
    assert engine.holding.wait(20)
    assert engine.closed.wait(20)


# --- refusals ---


@pytest.mark.parametrize(
    ("given", "code", "parameter"),
    [
        ({"sampling": {"temperature": -1}}, "invalid_parameter", "temperature"),
        ({"sampling": {"maxTokens": 0}}, "invalid_parameter", "maxTokens"),
        ({"sampling": {"beamWidth": 2}}, "invalid_parameter", "beamWidth"),
        ({"sampling": {"logitBias": [{"tokenId": 1, "bias": 1}, {"tokenId": 1, "bias": 2}]}}, None, "logitBias"),
        ({"model": "missing"}, "model_not_found", "model"),
        ({"messages": []}, "invalid_parameter", "messages"),
        ({"responseFormat": {"regex": "a+"}}, "invalid_parameter", "responseFormat"),
        ({"responseFormat": {"jsonObject": False}}, "invalid_parameter", "responseFormat"),
        ({"tools": [{"name": "f"}]}, "invalid_parameter", "tools"),
        ({"toolChoice": {"tool": "f"}}, "invalid_parameter", "toolChoice"),
        ({"chatTemplateKwargs": [1]}, "invalid_parameter", "chatTemplateKwargs"),
        ({"chatTemplateKwargs": {"messages": 1}}, "invalid_parameter", "chatTemplateKwargs"),
        ({"messages": [{"role": "USER", "content": "x" * 2000}]}, "context_length_exceeded", "messages"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_refused_by_its_name_in_the_schema(
    start: Start, given: dict[str, Any], code: str | None, parameter: str
) -> None:
    response = ask(start(), CHAT, chat_input(**given))
    assert response["data"] == {"chat": None}
    facts = response["errors"][0]["extensions"]
    assert facts["code"] == (code or "invalid_parameter")
    assert facts["parameter"] == parameter
    assert "_" not in response["errors"][0]["message"]


def test_a_parameter_that_the_schema_does_not_have_is_refused(start: Start) -> None:
    response = ask(start(), CHAT, chat_input(sampling={"frobnicate": 1}))
    assert code_of(response) == "graphql_bad_value"
    assert "frobnicate" in response["errors"][0]["message"]


def test_a_busy_engine_says_when_to_come_back(start: Start) -> None:
    from glm_crush.errors import OverloadedError

    engine = ScriptedEngine(refuse=OverloadedError("the queue is full", retry_after_seconds=2.5))
    facts = ask(start(engine), CHAT, chat_input())["errors"][0]["extensions"]
    assert (facts["code"], facts["status"], facts["retryAfterSeconds"]) == ("engine_overloaded", 503, 3.0)


def test_a_failure_tells_no_internals(start: Start) -> None:
    response = ask(start(ScriptedEngine(fail_after=1)), CHAT, chat_input())
    assert (response["data"], code_of(response)) == ({"chat": None}, "internal_error")
    assert "secret internals" not in json.dumps(response)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json; charset=latin-1"}, b"{}", 415),
        ({"content-type": "application/json", "accept": "image/png"}, b"{}", 406),
        ({"content-type": "application/json"}, b'{"query": "{ __typename }"', 400),
        ({"content-type": "application/json"}, b'{"query": NaN}', 400),
        ({"content-type": "application/json"}, b"[" * 5000, 400),
        ({"content-type": "application/json"}, b'[{"query": "{ __typename }"}]', 400),
        ({"content-type": "application/json"}, b'{"query": "{ __typename }", "variables": "x"}', 400),
        ({"content-type": "application/json", "accept": RESPONSE}, b'{"query": "{ nonsense }"}', 400),
        ({"content-type": "application/json"}, b'{"query": "{ nonsense }"}', 200),
        (
            {"content-type": "application/json"},
            b'{"query": "subscription { complete(input: {prompt: \\"a\\"}) { text } }"}',
            406,
        ),
    ],
    ids=["type", "charset", "accept", "json", "nan", "deep", "batch", "variables", "strict", "lax", "subscription"],
)
def test_requests_have_the_status_of_the_specification(
    start: Start, headers: dict[str, str], body: bytes, status: int
) -> None:
    response = httpx.post(f"{start().url}/graphql", content=body, headers=headers)
    assert response.status_code == status
    assert response.json()["errors"][0]["message"]


def test_what_costs_is_not_done_by_a_link(start: Start) -> None:
    engine = ScriptedEngine()
    query = 'mutation { complete(input: {prompt: "a"}) { id } }'
    response = httpx.get(f"{start(engine).url}/graphql", params={"query": query})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert engine.prompts == []


@pytest.mark.parametrize(
    ("argument", "field"),
    [
        ("responseFormat: {}", "ResponseFormatInput"),
        ('responseFormat: {regex: "a", grammar: "b"}', "ResponseFormatInput"),
        ("toolChoice: {tool: null}", "tool"),
        ("chatTemplateKwargs: 1, sampling: {seed: 1.5}", "BigInt"),
        ('sampling: {maxTokens: "3"}', "Int"),
        ("sampling: {seed: true}", "BigInt"),
    ],
)
def test_a_value_that_does_not_fit_the_schema_is_the_clients_fault(start: Start, argument: str, field: str) -> None:
    query = 'mutation { chat(input: {messages: [{role: USER, content: "hi"}], ARGUMENT}) { id } }'
    query = query.replace("ARGUMENT", argument)
    response = ask(start(), query)
    assert code_of(response) in ("graphql_bad_value", "graphql_validation_failed")
    assert field in response["errors"][0]["message"]


# --- what a document may cost ---


@pytest.mark.parametrize(
    "query",
    [
        "{ models { name } " + "__typename " * 2100 + "}",
        "{" + "models { capabilities {" * 400 + "chat" + "}}" * 400 + "}",
        "query { " + " ".join(f"a{i}: embed(input: {{texts: []}}) {{ model }}" for i in range(11)) + " }",
        "{ ...f0 } "
        + " ".join(f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(60))
        + " fragment f60 on Query { __typename }",
        "{ " + " ".join("models { name }" for _ in range(400)) + " }",
        "#\n" * 1000 + "{ __typename }",
    ],
    ids=["tokens", "depth", "work", "fragments", "fields", "comments"],
)
def test_documents_that_cost_too_much_are_refused_before_they_cost(start: Start, query: str) -> None:
    assert code_of(ask(start(), query)) in ("graphql_too_large", "graphql_parse_failed")


def test_variables_of_too_many_values_are_refused(start: Start) -> None:
    messages = [{"role": "USER"}] * 10_001
    assert code_of(ask(start(), CHAT, {"input": {"messages": messages}})) == "graphql_too_large"


def test_fragments_within_themselves_are_refused(start: Start) -> None:
    query = "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a models { name } }"
    assert code_of(ask(start(), query)) == "graphql_validation_failed"


def test_the_schema_can_be_asked_for_but_not_in_circles(start: Start) -> None:
    from graphql import get_introspection_query

    server = start()
    assert ask(server, get_introspection_query(directive_is_repeatable=True))["data"]["__schema"]["types"]
    circles = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"
    assert code_of(ask(server, circles)) == "graphql_validation_failed"


def test_the_schema_is_not_told_where_that_is_turned_off(start: Start) -> None:
    server = start(limits={"introspection": False})
    assert code_of(ask(server, "{ __schema { types { name } } }")) == "graphql_validation_failed"
    [error] = ask(server, "{ model { name } }")["errors"]
    assert "models" not in error["message"]
    assert ask(server, "{ __typename }")["data"] == {"__typename": "Query"}


def test_a_server_that_nobody_asks_by_graphql_imports_nothing_for_it() -> None:
    program = (
        "import sys, glm_crush.serving.app, glm_crush.serving.graphql.part; "
        "print(sorted({'strawberry', 'graphql'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_forms_written_into_the_document_are_refused_as_those_in_variables_are(start: Start) -> None:
    forms = '{regex: "a", choice: ["b"]}'
    query = f'mutation {{ complete(input: {{prompt: "Hi", responseFormat: {forms}}}) {{ choices {{ text }} }} }}'
    assert code_of(ask(start(), query)) == "graphql_bad_value"
