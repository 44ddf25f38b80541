"""The GraphQL over HTTP specification, sentence by sentence, as the audits of `graphql-http` have it (their ids).

`make conformance` runs the audits themselves, in Node; these are the same requests, for every run of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serving.graphql_client import serve_graphql

pytestmark = pytest.mark.requirement("S3")

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
TYPENAME = {"query": "{ __typename }"}
NAMED = {"query": "query Query { __typename }", "operationName": "Query"}
TYPE = {"query": "query Type($name: String!) { __type(name: $name) { name } }", "variables": {"name": "sometype"}}
COERCE = {"query": "query CoerceFailure($id: ID!){ __typename }", "variables": {"id": None}}
NO_FIELD = {"query": "{ 8f31403dfe404bccbb0e835f2629c6a7 }"}
UNICODE = {"query": '{ __type(name: "Run🏃Swim🏊") { name } }'}

# id, accept, body, status, whether the response has data
ROWS: list[tuple[str, str | None, Any, int, bool]] = [
    ("22EB", RESPONSE, TYPENAME, 200, True),
    ("4655", JSON, TYPENAME, 200, True),
    ("47DE", "*/*", TYPENAME, 200, True),
    ("80D8", None, TYPENAME, 200, True),
    ("BF61", None, UNICODE, 200, True),
    ("423L", RESPONSE, {"notquery": "{ __typename }"}, 400, False),
    *[(f"LKJ{i}", None, {"query": wrong}, 400, False) for i, wrong in enumerate([{"obj": "ect"}, 0, False, ["array"]])],
    ("34A2", RESPONSE, TYPENAME, 200, True),
    ("13EE", JSON, TYPENAME, 200, True),
    *[
        (f"6C0{i}", None, {**TYPENAME, "operationName": wrong}, 400, False)
        for i, wrong in enumerate([{"obj": "ect"}, 0, False, ["array"]])
    ],
    ("8161", RESPONSE, NAMED, 200, True),
    ("B8B3", JSON, NAMED, 200, True),
    *[
        (f"{audit}{i}", accept, {**TYPENAME, name: None}, 200, True)
        for i, name in enumerate(["variables", "operationName", "extensions"])
        for audit, accept in (("94B", RESPONSE), ("022", JSON))
    ],
    *[
        (f"4760{i}", None, {**TYPENAME, "variables": wrong}, 400, False)
        for i, wrong in enumerate(["string", 0, False, ["array"]])
    ],
    ("4761", RESPONSE, TYPE, 200, True),
    ("28B9", JSON, TYPE, 200, True),
    *[
        (f"58B{i}", None, {**TYPENAME, "extensions": wrong}, 400, False)
        for i, wrong in enumerate(["string", 0, False, ["array"]])
    ],
    ("428F", RESPONSE, {**TYPENAME, "extensions": {"some": "value"}}, 200, True),
    ("1B7A", JSON, {**TYPENAME, "extensions": {"some": "value"}}, 200, True),
    ("BCF8", JSON, b'{ "not a JSON', 400, False),
    ("B7N8", RESPONSE, b'{ "not a JSON', 400, False),
    ("3E3A", None, {"qeury": "{ __typename }"}, 400, False),
    ("572B", JSON, {"query": "{"}, 200, False),
    ("FDE2", JSON, NO_FIELD, 200, False),
    ("7B9B", JSON, COERCE, 200, False),
    ("556A", RESPONSE, {"query": "{"}, 400, False),
    ("74FF", RESPONSE, NO_FIELD, 400, False),
    ("86EE", RESPONSE, COERCE, 400, False),
]


@pytest.mark.parametrize(("audit", "accept", "body", "status", "has_data"), ROWS, ids=lambda value: str(value)[:30])
def test_a_post_has_the_status_type_and_shape_of_the_specification(
    start_server: Callable[..., Any], audit: str, accept: str | None, body: Any, status: int, has_data: bool
) -> None:
    url = f"{serve_graphql(start_server).url}/graphql"
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    headers = {"content-type": JSON, **({} if accept is None else {"accept": accept})}
    with httpx.Client(headers={"accept": ""}) as client:
        response = client.post(url, content=content, headers=headers)
    assert response.status_code == status, audit
    assert response.headers["content-type"].partition(";")[0] == (RESPONSE if accept == RESPONSE else JSON)
    assert ("data" in response.json()) == has_data
    assert ("errors" in response.json()) != has_data


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
def test_a_get_takes_json_among_its_parameters_and_changes_nothing(
    start_server: Callable[..., Any], accept: str
) -> None:
    url = f"{serve_graphql(start_server).url}/graphql"
    parameters = {"query": TYPE["query"], "variables": json.dumps(TYPE["variables"])}
    assert httpx.get(url, params=parameters, headers={"accept": accept}).json() == {"data": {"__type": None}}
    refused = httpx.get(url, params={"query": "mutation { __typename }"}, headers={"accept": accept})
    assert 400 <= refused.status_code < 500


def test_a_post_without_a_content_type_or_a_body_is_refused(start_server: Callable[..., Any]) -> None:
    url = f"{serve_graphql(start_server).url}/graphql"
    assert 400 <= httpx.post(url, content=json.dumps(TYPENAME)).status_code < 500
    assert httpx.post(url, headers={"content-type": JSON}).status_code == 400


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (f"{RESPONSE}, {JSON};q=0.9", RESPONSE),
        (f"{JSON};q=0.5, {RESPONSE};q=0.9", RESPONSE),
        (f"{JSON}, {RESPONSE};q=0.9", JSON),
        ("application/*", JSON),
        (f"text/html, {JSON};q=0", None),
        (f"image/png, {RESPONSE};q=0.1, */*;q=0.05", RESPONSE),
        (f"{RESPONSE};charset=utf-8", RESPONSE),
        ("nonsense;q=x", None),
    ],
)
def test_the_media_type_is_the_one_that_the_client_prefers(
    start_server: Callable[..., Any], accept: str, media_type: str | None
) -> None:
    response = httpx.post(f"{serve_graphql(start_server).url}/graphql", json=TYPENAME, headers={"accept": accept})
    if media_type is None:
        assert response.status_code == 406
    else:
        assert response.headers["content-type"].partition(";")[0] == media_type
