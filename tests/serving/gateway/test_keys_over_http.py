"""Applications register, get keys, and use them until they end."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.serving.gateway.conftest import ADMIN, Serve

pytestmark = pytest.mark.requirement("S6")

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
CHAT_PATH = "/v1/chat/completions"


def make_key(url: str, application: str = "shop", **fields: Any) -> Any:
    """A new key of an application, registered if it is not."""
    httpx2.post(f"{url}/admin/v1/applications", headers=ADMIN, json={"name": application})
    reply = httpx2.post(f"{url}/admin/v1/keys", headers=ADMIN, json={"application": application, **fields})
    assert reply.status_code == 201, reply.text
    return reply.json()


def chat(url: str, key: str | None, **fields: Any) -> httpx2.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx2.post(f"{url}{CHAT_PATH}", headers=headers, json={**CHAT, **fields})


def test_a_key_works_from_the_reply_that_makes_it_and_is_shown_only_there(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    assert chat(url, made["key"]).status_code == 200
    shown = httpx2.get(f"{url}/admin/v1/keys/{made['id']}", headers=ADMIN).text
    assert made["secrets"][0]["prefix"] in shown
    assert made["key"] not in shown
    assert made["key"].startswith(made["secrets"][0]["prefix"])


def test_without_a_key_or_with_a_wrong_one_nothing_is_open_but_the_probes(serve: Serve) -> None:
    url = serve().url
    key = make_key(url)["key"]
    for wrong in (None, "nonsense", key[:-1] + ("a" if key[-1] != "a" else "b")):
        assert chat(url, wrong).status_code == 401
    assert httpx2.get(f"{url}/health").status_code == 200


def test_a_revoked_key_ends_at_once(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    assert httpx2.post(f"{url}/admin/v1/keys/{made['id']}/revoke", headers=ADMIN).json()["status"] == "revoked"
    reply = chat(url, made["key"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")


def test_rotation_gives_a_second_secret_and_the_first_ends_with_the_overlap(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    path = f"{url}/admin/v1/keys/{made['id']}/rotate"
    second = httpx2.post(path, headers=ADMIN, json={"overlap_seconds": 3600}).json()["key"]
    assert [chat(url, key).status_code for key in (made["key"], second)] == [200, 200]
    third = httpx2.post(path, headers=ADMIN, json={"overlap_seconds": 0}).json()["key"]
    assert [chat(url, key).status_code for key in (made["key"], second, third)] == [401, 401, 200]
    assert "expired" in chat(url, second).json()["error"]["message"]


def test_an_overlap_of_more_than_a_year_is_refused(serve: Serve) -> None:
    url = serve().url
    path = f"{url}/admin/v1/keys/{make_key(url)['id']}/rotate"
    reply = httpx2.post(path, headers=ADMIN, json={"overlap_seconds": 1e300})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "overlap_seconds")


def test_a_key_cannot_end_after_the_last_year_of_the_calendar(serve: Serve) -> None:
    url = serve().url
    path = f"{url}/admin/v1/keys/{make_key(url)['id']}"
    reply = httpx2.patch(path, headers=ADMIN, json={"expires_at": 10**30})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "expires_at")


def test_what_is_done_to_a_key_is_no_key_of_that_name(serve: Serve) -> None:
    url = serve().url
    path = f"{url}/admin/v1/keys/{make_key(url)['id']}/rotate"
    reply = httpx2.patch(path, headers=ADMIN, json={"name": "other"})
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_scopes_open_groups_of_routes(serve: Serve) -> None:
    url = serve().url
    only_models = make_key(url, scopes=["models"])["key"]
    assert httpx2.get(f"{url}/v1/models", headers={"x-api-key": only_models}).status_code == 200
    refused = chat(url, only_models)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert "generate" in refused.json()["error"]["message"]


def test_only_the_scope_admin_opens_the_admin_routes(serve: Serve) -> None:
    url = serve().url
    everything, admin = make_key(url)["key"], make_key(url, scopes=["admin"])["key"]
    paths = ("/admin/v1/keys", "/admin/v1/usage", "/admin/v1/audit", "/admin/v1/applications")
    for path in paths:
        assert httpx2.get(f"{url}{path}", headers={"x-api-key": everything}).status_code == 403
        assert httpx2.get(f"{url}{path}", headers={"x-api-key": admin}).status_code == 200


def test_callers_without_a_key_are_never_administrators(serve: Serve) -> None:
    url = serve(api={"key": None}).url
    assert chat(url, None).status_code == 200
    assert httpx2.get(f"{url}/admin/v1/keys").status_code == 403


def test_where_no_key_is_needed_any_word_will_do_but_not_a_key_that_was_revoked(serve: Serve) -> None:
    made = make_key(serve().url)
    url = serve(api={"key": None}).url
    assert [chat(url, key).status_code for key in (None, "none", made["key"])] == [200, 200, 200]
    httpx2.delete(f"{serve().url}/admin/v1/keys/{made['id']}", headers=ADMIN)
    with httpx2.Client(headers={"authorization": f"Bearer {made['key']}"}) as client:
        started = time.monotonic()
        while client.get(f"{url}/v1/models").status_code != 401:
            assert time.monotonic() - started < 20, "the key goes on working"
    assert chat(url, "none").status_code == 200


def test_a_key_for_some_models_is_refused_by_the_others(serve: Serve) -> None:
    url = serve().url
    assert chat(url, make_key(url, models=["scripted", "glm-*"])["key"]).status_code == 200
    refused = chat(url, make_key(url, models=["glm-*"])["key"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")


def test_rights_and_limits_can_be_changed_without_a_new_secret(serve: Serve) -> None:
    url = serve().url
    made = make_key(url, scopes=["models"])
    path = f"{url}/admin/v1/keys/{made['id']}"
    changed = httpx2.patch(path, headers=ADMIN, json={"scopes": ["generate"], "limits": {"requests_per_minute": 2}})
    assert changed.json()["limits"] == {"requests_per_minute": 2}
    assert [chat(url, made["key"]).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"scopes": ["nope"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"expires_at": 5}, "expires_at"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"rpm": 1}}, "limits.rpm"),
        ({"name": ""}, "name"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_by_name(serve: Serve, fields: Any, parameter: str) -> None:
    url = serve().url
    make_key(url)
    reply = httpx2.post(f"{url}/admin/v1/keys", headers=ADMIN, json={"application": "shop", **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, parameter)


def test_a_key_of_nobody_and_a_key_that_is_not_there_are_404(serve: Serve) -> None:
    url = serve().url
    made = httpx2.post(f"{url}/admin/v1/keys", headers=ADMIN, json={"application": "nobody"})
    assert (made.status_code, made.json()["error"]["code"]) == (404, "not_found")
    assert httpx2.get(f"{url}/admin/v1/keys/key_none", headers=ADMIN).status_code == 404


def test_a_name_is_registered_once(serve: Serve) -> None:
    url = serve().url
    statuses = [
        httpx2.post(f"{url}/admin/v1/applications", headers=ADMIN, json={"name": "shop"}).status_code for _ in range(2)
    ]
    assert statuses == [201, 400]


def test_keys_outlive_the_server_and_are_seen_by_another_one_at_once(serve: Serve) -> None:
    first, second = serve(), serve()
    made = make_key(first.url)
    assert chat(second.url, made["key"]).status_code == 200


def test_a_key_revoked_in_one_server_ends_in_the_other_within_a_second(serve: Serve) -> None:
    first, second = serve(), serve()
    made = make_key(first.url)
    assert chat(second.url, made["key"]).status_code == 200
    httpx2.delete(f"{first.url}/admin/v1/keys/{made['id']}", headers=ADMIN)
    with httpx2.Client(headers={"authorization": f"Bearer {made['key']}"}) as client:
        started = time.monotonic()
        while client.get(f"{second.url}/v1/models").status_code != 401:
            assert time.monotonic() - started < 20, "the key goes on working"
