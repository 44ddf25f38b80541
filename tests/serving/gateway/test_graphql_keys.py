"""GraphQL obeys keys: scopes field by field, models, limits, usage and records; administrators do all by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serving.graphql_client import CHAT, STREAM, ask, chat_input, code_of, opened, serve_graphql, subscribe, until
from tests.serving.scripted import RunningServer, ScriptedEngine

pytestmark = pytest.mark.requirement("S3", "S9")

Serve = Callable[..., RunningServer]
CREATE = "mutation ($input: CreateKeyInput!) { createKey(input: $input) { secret key { id status scopes } } }"


def make_key(server: RunningServer, **fields: Any) -> tuple[str, str]:
    """The id and the secret of a new key."""
    ask(server, 'mutation { registerApplication(name: "search") { id } }', key="operator")
    made = ask(server, CREATE, {"input": {"application": "search", **fields}}, key="operator")["data"]["createKey"]
    return made["key"]["id"], made["secret"]


def test_a_request_without_a_key_is_refused_in_the_shape_of_graphql(serve: Serve) -> None:
    server = serve_graphql(serve)
    response = httpx.post(f"{server.url}/graphql", json={"query": "{ __typename }"})
    assert response.status_code == 401
    assert code_of(response.json()) == "invalid_api_key"


def test_administrators_make_change_rotate_and_revoke_keys(serve: Serve) -> None:
    server = serve_graphql(serve)
    key_id, secret = make_key(server, name="web", limits={"requestsPerMinute": 60}, models=["script*"])
    listed = ask(server, "{ applications { name } keys { name limits { requestsPerMinute } models } }", key="operator")
    assert listed["data"]["applications"] == [{"name": "search"}]
    assert listed["data"]["keys"] == [{"name": "web", "limits": {"requestsPerMinute": 60}, "models": ["script*"]}]
    change = "mutation ($id: ID!, $input: KeyChangeInput!) { changeKey(id: $id, input: $input) { name scopes } }"
    changed = ask(server, change, {"id": key_id, "input": {"name": "app", "scopes": ["models"]}}, key="operator")
    assert changed["data"]["changeKey"] == {"name": "app", "scopes": ["models"]}
    rotate = "mutation ($id: ID!) { rotateKey(id: $id, overlapSeconds: 60) { secret key { secrets { prefix } } } }"
    rotated = ask(server, rotate, {"id": key_id}, key="operator")["data"]["rotateKey"]
    assert len(rotated["key"]["secrets"]) == 2
    for each in (secret, rotated["secret"]):
        assert ask(server, "{ models { name } }", key=each)["data"] == {"models": [{"name": "scripted"}]}
    revoked = ask(server, "mutation ($id: ID!) { revokeKey(id: $id) { status } }", {"id": key_id}, key="operator")
    assert revoked["data"]["revokeKey"] == {"status": "REVOKED"}
    assert code_of(ask(server, "{ models { name } }", key=secret)) == "invalid_api_key"


ADMIN_FIELDS = [
    "{ applications { id } }",
    "{ keys { id } }",
    '{ key(id: "x") { id } }',
    "{ usage { keyId } }",
    "{ auditLog { id } }",
    'mutation { registerApplication(name: "mine") { id } }',
    'mutation { createKey(input: {application: "search"}) { secret } }',
    'mutation { changeKey(id: "x", input: {}) { id } }',
    'mutation { rotateKey(id: "x") { secret } }',
    'mutation { revokeKey(id: "x") { id } }',
]


@pytest.mark.parametrize("query", ADMIN_FIELDS)
def test_what_is_for_administrators_is_for_no_other_key(serve: Serve, query: str) -> None:
    server = serve_graphql(serve)
    _, secret = make_key(server)
    response = ask(server, query, key=secret)
    assert code_of(response) == "permission_denied"
    assert set(response["data"].values()) == {None}


def test_every_field_of_the_schema_that_needs_the_scope_admin_says_so(serve: Serve) -> None:
    fields = "{ __schema { queryType { fields { name description } } mutationType { fields { name description } } } }"
    schema = ask(serve_graphql(serve), fields, key="operator")["data"]["__schema"]
    described = [field for kind in schema.values() for field in kind["fields"]]
    needing = {field["name"] for field in described if "admin" in field["description"]}
    assert needing == {query.partition("{ ")[2].split("(")[0].split(" ")[0] for query in ADMIN_FIELDS}


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["generate"], {"chat"}),
        (["models"], {"models"}),
        (["tokenize"], {"tokenize"}),
        (["*"], {"chat", "models", "tokenize"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_each_field_asks_for_its_own_scope(serve: Serve, scopes: list[str], allowed: set[str]) -> None:
    server = serve_graphql(serve)
    _, secret = make_key(server, scopes=scopes)
    answers = {
        **ask(server, '{ models { name } tokenize(text: "a") }', key=secret)["data"],
        **ask(server, CHAT, chat_input(), key=secret)["data"],
    }
    assert {name for name, value in answers.items() if value is not None} == allowed


def test_a_key_for_other_models_is_refused_before_anything_runs(serve: Serve) -> None:
    engine = ScriptedEngine()
    server = serve_graphql(serve, engine)
    _, secret = make_key(server, models=["glm-*"])
    assert code_of(ask(server, CHAT, chat_input(), key=secret)) == "permission_denied"
    with opened(server, introduce={"authorization": f"Bearer {secret}"}) as socket:
        subscribe(socket, "a", variables=chat_input())
        assert code_of({"errors": until(socket, "error")[-1]["payload"]}) == "permission_denied"
    assert engine.prompts == []


def test_every_generation_counts_as_a_request_and_one_slot_is_enough_for_them(serve: Serve) -> None:
    server = serve_graphql(serve)
    _, secret = make_key(server, limits={"requestsPerMinute": 3, "concurrency": 1})
    three = "mutation {" + "".join(f' m{i}: complete(input: {{prompt: "a"}}) {{ model }}' for i in range(4)) + "}"
    response = ask(server, three, key=secret)
    assert [value is not None for value in response["data"].values()] == [True, True, True, False]
    assert code_of(response) == "rate_limit_exceeded"
    assert response["errors"][0]["extensions"]["retryAfterSeconds"] > 0
    refused = httpx.post(
        f"{server.url}/graphql", json={"query": "{ __typename }"}, headers={"authorization": f"Bearer {secret}"}
    )
    assert (refused.status_code, code_of(refused.json())) == (429, "rate_limit_exceeded")


def test_tokens_are_counted_and_requests_recorded_with_the_fields_they_asked_for(serve: Serve) -> None:
    server = serve_graphql(serve)
    key_id, secret = make_key(server)
    ask(server, CHAT, chat_input(), key=secret)
    with opened(server, introduce={"authorization": f"Bearer {secret}"}) as socket:
        subscribe(socket, "a", STREAM, chat_input())
        until(socket, "complete")
    query = """query ($id: ID) {
      usage(keyId: $id) { model requests promptTokens completionTokens }
      auditLog(keyId: $id) { route status guard }
    }"""
    records = ask(server, query, {"id": key_id}, key="operator")["data"]
    assert records["usage"] == [{"model": "scripted", "requests": 2, "promptTokens": 36, "completionTokens": 10}]
    assert {"route": "POST /graphql chat", "status": 200, "guard": None} in records["auditLog"]
    assert {"route": "GET /graphql chat", "status": 200, "guard": None} in records["auditLog"]


def test_a_cancelled_subscription_pays_for_what_it_used(serve: Serve) -> None:
    engine = ScriptedEngine(hold_after=2)
    server = serve_graphql(serve, engine)
    key_id, secret = make_key(server)
    with opened(server, introduce={"authorization": f"Bearer {secret}"}) as socket:
        subscribe(socket, "a", STREAM, chat_input())
        assert engine.holding.wait(20)
        socket.send('{"type": "complete", "id": "a"}')
        assert engine.closed.wait(20)
    query = "query ($id: ID) { usage(keyId: $id) { promptTokens completionTokens } }"
    assert ask(server, query, {"id": key_id}, key="operator")["data"]["usage"] == [
        {"promptTokens": 18, "completionTokens": 2}
    ]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ('mutation { createKey(input: {application: "nobody"}) { secret } }', "not_found"),
        ('mutation { createKey(input: {application: "search", scopes: ["fly"]}) { secret } }', "invalid_parameter"),
        (
            'mutation { createKey(input: {application: "search", limits: {concurrency: 0}}) { secret } }',
            "invalid_parameter",
        ),
        (
            'mutation { createKey(input: {application: "search", expiresAt: "2001-01-01"}) { secret } }',
            "invalid_parameter",
        ),
        ('mutation { registerApplication(name: "") { id } }', "invalid_parameter"),
        ('{ key(id: "x") { id } }', "not_found"),
        ("{ auditLog(first: 0) { id } }", "invalid_parameter"),
        ("{ auditLog(before: 99999999999999999999) { id } }", "invalid_parameter"),
        ('{ usage(from: "yesterday") { keyId } }', "graphql_validation_failed"),
    ],
)
def test_what_administrators_get_wrong_is_refused(serve: Serve, query: str, code: str) -> None:
    server = serve_graphql(serve)
    make_key(server)
    assert code_of(ask(server, query, key="operator")) == code
