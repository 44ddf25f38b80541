"""Web pages: which may call, and what a foreign one cannot do through somebody's browser."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from glm_crush.errors import AccessDeniedError
from glm_crush.serving.gateway.browser_guard import BrowserGuard, names_in
from tests.serving.gateway.conftest import ADMIN, Serve

pytestmark = pytest.mark.requirement("S6")

OPEN: Any = {"api": {"key": None}}
PAGE = "https://chat.example"


def check(guard: BrowserGuard, **headers: str) -> bool:
    try:
        guard.check({name.encode(): value.encode() for name, value in headers.items()})
    except AccessDeniedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost:4600", True), ("127.0.0.1:4600", True), ("[::1]:4600", True), ("192.168.1.5", True),
        ("glm:4600", True), ("a.localhost", True), ("evil.example", False), ("evil.example:4600", False),
        ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("MINE.example", True), ("", True),
    ],
)  # fmt: skip
def test_without_a_key_the_server_must_be_called_by_a_name_that_nobody_outside_can_own(
    host: str, is_ours: bool
) -> None:
    assert check(BrowserGuard(hosts=names_in("mine.example, other.example")), host=host) is is_ours


@pytest.mark.parametrize(
    ("origin", "is_welcome"),
    [
        ("http://localhost:3000", True), ("http://127.0.0.1:4600", True), ("http://[::1]", True),
        ("vscode-webview://abc", True), ("app://local", True), (PAGE, True), ("null", False),
        ("https://evil.example", False), ("http://8.8.8.8", False), ("https://evil.example/localhost", False),
        ("", False),
    ],
)  # fmt: skip
def test_without_a_key_no_page_of_elsewhere_may_call(origin: str, is_welcome: bool) -> None:
    guard = BrowserGuard(origins=names_in(PAGE))
    assert check(guard, host="localhost:4600", origin=origin) is is_welcome


def test_a_page_served_from_the_same_address_may_call() -> None:
    assert check(BrowserGuard(), host="192.168.1.5:4600", origin="http://192.168.1.5:4600")
    assert not check(BrowserGuard(), host="192.168.1.5:4600", origin="http://192.168.1.6:4600")


def test_programs_send_no_origin_and_pages_with_a_key_are_judged_by_the_key(serve: Serve) -> None:
    url = serve().url
    foreign = {"origin": "https://evil.example", "host": "evil.example"}
    assert httpx2.get(f"{url}/v1/models", headers=ADMIN | foreign).status_code == 200
    url = serve(**OPEN).url
    assert httpx2.get(f"{url}/v1/models").status_code == 200
    refused = httpx2.get(f"{url}/v1/models", headers={"origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert "gateway.cors_origins" in refused.json()["error"]["message"]


def test_a_preflight_of_a_page_that_may_call_needs_no_key(serve: Serve) -> None:
    url = serve(cors_origins=f"{PAGE}, https://other.example").url
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    reply = httpx2.options(f"{url}/v1/chat/completions", headers={"origin": PAGE, **asked})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    stranger = httpx2.options(f"{url}/v1/chat/completions", headers={"origin": "https://evil.example", **asked})
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers


def test_replies_and_errors_tell_the_browser_who_may_read_them_and_which_headers(serve: Serve) -> None:
    url = serve(cors_origins=PAGE).url
    for headers, status in ((ADMIN, 200), ({}, 401)):
        reply = httpx2.get(f"{url}/v1/models", headers={**headers, "origin": PAGE})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "x-ratelimit-remaining-tokens" in reply.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in reply.headers


def test_without_the_setting_no_page_is_told_that_it_may(serve: Serve) -> None:
    reply = httpx2.get(f"{serve().url}/v1/models", headers={**ADMIN, "origin": PAGE})
    assert not [name for name in reply.headers if name.startswith("access-control")]
