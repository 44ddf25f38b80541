"""The gateway without HTTP: admissions for any protocol, guessing, scopes of every route, forms of keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.errors import AccessDeniedError, AuthenticationError, QuotaError, RateLimitError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.app import create_app
from glm_crush.serving.gateway.admission import acting, current_admission
from glm_crush.serving.gateway.books import Books
from glm_crush.serving.gateway.exposure import requires_keys
from glm_crush.serving.gateway.gateway import Credentials, Gateway
from glm_crush.serving.gateway.guessing import GuessThrottle
from glm_crush.serving.gateway.headers import duration
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.limits import LocalLimits
from glm_crush.serving.gateway.meter import Meter, Prices
from glm_crush.serving.gateway.metering import metered_prompt
from glm_crush.serving.gateway.records import Key, KeyLimits, Secret
from glm_crush.serving.gateway.scopes import OPEN_PATHS, SCOPES, scope_of
from glm_crush.serving.gateway.secrets import SecretHasher, is_ours, new_secret
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.types import Usage

pytestmark = pytest.mark.requirement("S6")

CHAT = "POST /v1/chat/completions"


def ring_with(text: str, limits: KeyLimits | None = None, scopes: tuple[str, ...] = ("*",)) -> KeyRing:
    secret = Secret(prefix=text[:12], digest=SecretHasher().digest(text.encode()), created_at=0.0)
    ring = KeyRing()
    key = Key(
        id="key_1", application_id="app_1", name="k", scopes=scopes, limits=limits or KeyLimits(), secrets=(secret,)
    )
    ring.replace([key])
    return ring


def gateway_with(ring: KeyRing | None = None, *, bootstrap: str | None = None, failures: int = 3) -> Gateway:
    books = Books(limits=LocalLimits(lambda: 0.0), meter=Meter(Prices()), now=lambda: 1000.0)
    return Gateway(
        books, ring=ring, bootstrap_key=bootstrap, requires_keys=True, max_failures_per_minute=failures,
        clock=lambda: 0.0,
    )  # fmt: skip


def test_any_protocol_can_admit_reserve_and_settle() -> None:
    text = new_secret().text
    gateway = gateway_with(ring_with(text, KeyLimits(tokens_per_minute=100, concurrency=1)))

    async def scenario() -> None:
        credentials = Credentials(text.encode(), "10.0.0.1")
        admission = await gateway.admit(credentials, "grpc Generate", "glm-4", 50, scope="generate")
        with acting(admission):
            assert current_admission() is admission
            reservation = await admission.reserve("glm-4", 20, 80)
        assert current_admission() is None
        with pytest.raises(RateLimitError):
            await gateway.admit(credentials, CHAT)  # the slot is taken
        reservation.settle(Usage(20, 10))
        reservation.settle(Usage(20, 10))  # changes nothing
        admission.close(200)
        again = await gateway.admit(credentials, CHAT, "glm-4", 70)
        with pytest.raises(RateLimitError):
            await again.reserve("glm-4", 71, 0)
        again.close(200)

    asyncio.run(scenario())
    entries, usage = gateway.books.ledger.drain()
    assert [(entry.route, entry.status, entry.prompt_tokens, entry.completion_tokens) for entry in entries] == [
        *(("POST /v1/chat/completions", 429, 0, 0), ("grpc Generate", 200, 20, 10)),
        ("POST /v1/chat/completions", 200, 0, 0),
    ]
    assert [(cell.model, total.prompt_tokens) for cell, total in usage.items()] == [("glm-4", 20)]


def test_an_estimate_that_does_not_fit_is_refused_at_the_door_and_leaves_no_slot_taken() -> None:
    text = new_secret().text
    gateway = gateway_with(ring_with(text, KeyLimits(tokens_per_minute=100, concurrency=1)))

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(RateLimitError, match="100 tokens per minute"):
                await gateway.admit(Credentials(text.encode()), CHAT, "glm-4", 101)
        (await gateway.admit(Credentials(text.encode()), CHAT, "glm-4", 100)).close(200)

    asyncio.run(scenario())


def test_work_that_goes_on_after_its_reply_keeps_its_slot_and_is_recorded_when_it_ends() -> None:
    text = new_secret().text
    gateway = gateway_with(ring_with(text, KeyLimits(concurrency=1)))

    async def scenario() -> None:
        admission = await gateway.admit(Credentials(text.encode()), CHAT)
        reservation = await admission.reserve("glm-4", 20, 80)
        admission.close(200)
        with pytest.raises(RateLimitError):
            await gateway.admit(Credentials(text.encode()), CHAT)
        reservation.settle(Usage(20, 3))
        (await gateway.admit(Credentials(text.encode()), CHAT)).close(200)

    asyncio.run(scenario())
    entries, _ = gateway.books.ledger.drain()
    assert [(entry.status, entry.completion_tokens) for entry in entries] == [(200, 0), (429, 0), (200, 3), (200, 0)]


def test_a_guesser_is_held_back_and_neighbours_with_random_keys_are_not() -> None:
    text = new_secret().text
    gateway = gateway_with(ring_with(text), bootstrap="chosen by a person")

    async def scenario() -> list[type[BaseException] | None]:
        outcomes: list[type[BaseException] | None] = []
        for key, address in (
            *((f"guess {number}", "10.0.0.1") for number in range(4)),
            *(("chosen by a person", "10.0.0.1"), (text, "10.0.0.1"), ("chosen by a person", "10.0.0.2")),
        ):
            try:
                await gateway.authenticate(Credentials(key.encode(), address))
                outcomes.append(None)
            except (AuthenticationError, RateLimitError) as error:
                outcomes.append(type(error))
        return outcomes

    wrong = AuthenticationError
    assert asyncio.run(scenario()) == [wrong, wrong, wrong, RateLimitError, RateLimitError, None, None]


def test_the_throttle_forgets_evenly_and_counts_ipv6_by_network() -> None:
    now = 0.0
    throttle = GuessThrottle(2, lambda: now)
    for address in ("2001:db8::1", "2001:db8::2"):
        throttle.failed(address)
    assert throttle.wait_seconds("2001:db8::ffff") == 30.0
    assert throttle.wait_seconds("2001:db8:0:1::1") == 0.0
    now = 30.0
    assert throttle.wait_seconds("2001:db8::1") == 0.0


def test_the_throttle_remembers_a_bounded_number_of_addresses() -> None:
    throttle = GuessThrottle(1, lambda: 0.0)
    for number in range(20_001):
        throttle.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert throttle.wait_seconds("10.0.0.0") == 0.0
    assert throttle.wait_seconds("10.0.0.1") == 60.0


def test_an_expired_key_is_told_so_and_a_route_without_a_group_is_for_keys_for_everything() -> None:
    text = new_secret().text
    narrow = gateway_with(ring_with(text, scopes=("generate",)))

    async def scenario() -> None:
        (await narrow.admit(Credentials(text.encode()), CHAT)).close(200)
        with pytest.raises(AccessDeniedError, match="scope \\*"):
            await narrow.admit(Credentials(text.encode()), "GET /nobody/knows")

    asyncio.run(scenario())


def test_every_route_of_the_server_belongs_to_a_group(tmp_path: Path) -> None:
    app = create_app([], ApiSettings(), database=LazyDatabase(StorageSettings(), tmp_path))
    paths = {route.path for route in app.routes} - OPEN_PATHS  # type: ignore[attr-defined]
    assert {path: scope_of(path.replace("{", "").replace("}", "")) for path in paths if scope_of(path) is None} == {}


def test_a_group_covers_what_is_below_its_paths_and_nothing_beside_them() -> None:
    assert scope_of("/v1/models/org/name") == "models"
    assert scope_of("/v1/modelsandmore") is None
    assert scope_of("/v1/messages") == "generate"
    assert scope_of("/v1/messages/count_tokens") == "tokenize"
    assert {scope_of(path) for path in ("/admin", "/admin/v1/keys", "/admin/v2/x")} == {"admin"}
    assert all(scope_of(path) in SCOPES for path in ("/", "/metrics", "/api/chat", "/v1/files/file_1/content"))


def test_keys_are_long_random_and_recognisable() -> None:
    keys = {new_secret().text for _ in range(100)}
    assert len(keys) == 100
    assert all(is_ours(key.encode()) and len(key) == len("glm_") + 8 + 1 + 43 for key in keys)


@given(st.binary(max_size=80))
def test_any_bytes_can_be_a_wrong_key(key: bytes) -> None:
    with pytest.raises(AuthenticationError):
        asyncio.run(gateway_with(bootstrap="operator").authenticate(Credentials(key, "10.0.0.1")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.0121, "13ms"), (1.5, "1.5s"), (59.91, "60s"), (360.0, "6m0s"), (12_300.2, "3h25m1s")],
)
def test_durations_are_written_as_openai_does_and_never_too_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_money_is_counted_in_millionths_and_rounded_up() -> None:
    prices = Prices(prompt=0.5, completion=1.5)
    assert prices.cost(Usage(1000, 1000)) == 2_000_000
    assert prices.cost(Usage(1, 0)) == 500
    assert Prices(prompt=0.0001).cost(Usage(1, 0)) == 1


def test_texts_that_are_only_read_are_charged_and_cost_nothing_when_that_fails() -> None:
    text = new_secret().text
    gateway = gateway_with(ring_with(text, KeyLimits(tokens_per_day=100)))

    async def scenario() -> None:
        admission = await gateway.admit(Credentials(text.encode()), "POST /v1/embeddings")
        with acting(admission):
            with pytest.raises(ZeroDivisionError):
                async with metered_prompt("bge", 90):
                    raise ZeroDivisionError
            async with metered_prompt("bge", 60):
                pass
            with pytest.raises(QuotaError):
                async with metered_prompt("bge", 41):
                    pass
        admission.close(200)
        async with metered_prompt("bge", 10**9):
            pass  # on nobody's behalf

    asyncio.run(scenario())
    entries, usage = gateway.books.ledger.drain()
    assert [(cell.model, total.prompt_tokens) for cell, total in usage.items()] == [("bge", 60)]
    assert (entries[0].model, entries[0].prompt_tokens) == ("bge", 60)


@pytest.mark.parametrize(
    ("host", "settings", "needed"),
    [
        ("127.0.0.1", {}, False),
        ("::1", {}, False),
        ("localhost", {}, False),
        ("0.0.0.0", {}, True),
        ("192.168.1.5", {}, True),
        ("glm.example", {}, True),
        ("127.0.0.1", {"require_keys": True}, True),
        ("127.0.0.1", {"trusted_proxies": "127.0.0.1"}, True),
    ],
)
def test_keys_are_needed_wherever_others_can_come_from(host: str, settings: Any, needed: bool) -> None:
    assert requires_keys(ApiSettings(host=host), GatewaySettings(**settings)) is needed
