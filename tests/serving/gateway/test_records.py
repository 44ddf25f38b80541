"""The audit log and the usage: who did what, without a word of what was said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from glm_crush.errors import OverloadedError, StorageError
from glm_crush.serving.gateway.account_store import AccountStore
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.ledger import AuditEntry, Ledger, UsageCell
from glm_crush.serving.gateway.recorder import Recorder
from glm_crush.storage.connect import connect
from glm_crush.types import Usage
from tests.serving.gateway.conftest import ADMIN, Serve
from tests.serving.gateway.test_keys_over_http import CHAT, CHAT_PATH, chat, make_key
from tests.storage.databases import OpenDatabase

pytestmark = pytest.mark.requirement("S6")

Result = TypeVar("Result")
ENTRY = AuditEntry(1000.0, "req_1", "app_1", "key_1", "10.0.0.1", "POST /v1/chat/completions", "m", 200, 18, 5, 0, 12)


def with_accounts(open_database: OpenDatabase, work: Callable[[AccountStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with open_database() as database:
            store = AccountStore(database)
            await store.open()
            return await work(store)

    return asyncio.run(run())


def test_each_request_with_a_key_is_one_row_and_none_holds_what_was_said(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    headers = {"authorization": f"Bearer {made['key']}", "x-request-id": "mine-1"}
    body = {**CHAT, "messages": [{"role": "user", "content": "secret words"}]}
    httpx2.post(f"{url}{CHAT_PATH}", headers=headers, json=body)
    reply = httpx2.get(f"{url}/admin/v1/audit", headers=ADMIN, params={"key_id": made["id"]})
    [row] = reply.json()["data"]
    assert (row["request_id"], row["route"], row["model"], row["status"]) == (
        *("mine-1", "POST /v1/chat/completions", "scripted", 200),
    )
    assert (row["tenant"], row["address"]) == (made["application_id"], "127.0.0.1")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (28, 5)
    for hidden in ("secret words", "Hello", made["key"]):
        assert hidden not in reply.text


def test_refusals_are_rows_too(serve: Serve) -> None:
    url = serve().url
    made = make_key(url, scopes=["models"], limits={"requests_per_minute": 1})
    chat(url, "wrong")
    chat(url, made["key"])
    for _ in range(2):
        httpx2.get(f"{url}/v1/models", headers={"x-api-key": made["key"]})
    rows = httpx2.get(f"{url}/admin/v1/audit", headers=ADMIN, params={"limit": 5}).json()["data"]
    assert [(row["status"], row["key_id"]) for row in rows[:4]] == [
        *((429, made["id"]), (200, made["id"]), (403, made["id"]), (401, None)),
    ]


@pytest.mark.parametrize(
    ("trusted", "address"), [("127.0.0.1", "10.9.8.7"), ("10.0.0.1", "127.0.0.1"), (None, "127.0.0.1")]
)
def test_the_address_is_what_a_trusted_proxy_says_and_nobody_else(
    serve: Serve, trusted: str | None, address: str
) -> None:
    url = serve(trusted_proxies=trusted).url
    httpx2.get(f"{url}/v1/models", headers={**ADMIN, "x-forwarded-for": "10.9.8.7"})
    [row] = httpx2.get(f"{url}/admin/v1/audit", headers=ADMIN).json()["data"]
    assert row["address"] == address


def test_usage_adds_up_by_key_model_and_day(serve: Serve) -> None:
    url = serve().url
    first, second = make_key(url), make_key(url)
    for key in (first["key"], first["key"], second["key"]):
        chat(url, key)
    rows = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN).json()["data"]
    sums = {
        row["key_id"]: (row["model"], row["requests"], row["prompt_tokens"], row["completion_tokens"]) for row in rows
    }
    assert sums == {first["id"]: ("scripted", 2, 36, 10), second["id"]: ("scripted", 1, 18, 5)}


def test_an_orderly_stop_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    made = make_key(server.url)
    for _ in range(20):
        chat(server.url, made["key"])
    server.stop()

    async def count() -> Any:
        database = connect(None, tmp_path / "data")
        try:
            return await database.read(
                lambda c: c.execute(
                    text("SELECT count(*), sum(completion_tokens) FROM gateway_audit WHERE key_id = :key"),
                    {"key": made["id"]},
                ).one()
            )
        finally:
            await database.close()

    assert tuple(asyncio.run(count())) == (20, 100)


def test_when_a_key_was_used_is_noted(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    chat(url, made["key"])
    httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN)  # written down
    assert httpx2.get(f"{url}/admin/v1/keys/{made['id']}", headers=ADMIN).json()["last_used_at"] is not None


def test_the_database_itself_refuses_to_change_a_row_of_the_audit_log(open_database: OpenDatabase) -> None:
    async def scenario(store: AccountStore) -> None:
        await store.write([ENTRY], {})
        with pytest.raises((StorageError, IntegrityError), match="append-only"):
            await store._database.write(lambda c: c.execute(text("UPDATE gateway_audit SET status = 500")))

    with_accounts(open_database, scenario)


def test_pages_of_the_audit_log_go_back_in_time(open_database: OpenDatabase) -> None:
    async def scenario(store: AccountStore) -> list[list[str]]:
        await store.write([ENTRY._replace(request_id=f"req_{n}") for n in range(5)], {})
        newest = await store.audit(limit=2)
        older = await store.audit(limit=2, before=newest[-1]["id"])
        return [[row["request_id"] for row in page] for page in (newest, older)]

    assert with_accounts(open_database, scenario) == [["req_4", "req_3"], ["req_2", "req_1"]]


def test_old_rows_can_be_forgotten_by_date(open_database: OpenDatabase) -> None:
    async def scenario(store: AccountStore) -> tuple[int, int]:
        await store.write([ENTRY, ENTRY._replace(time=2000.0)], {})
        return await store.forget_before(1500.0), len(await store.audit())

    assert with_accounts(open_database, scenario) == (1, 1)


def test_usage_of_two_servers_is_added_in_one_row(open_database: OpenDatabase) -> None:
    async def scenario(store: AccountStore) -> list[dict[str, Any]]:
        for _ in range(2):
            ledger = Ledger()
            ledger.use(UsageCell("key_1", "m", "2026-11-22"), Usage(18, 5, 2), money=7)
            await store.write(*ledger.drain())
        assert (await store.spent("2026-11")).amount("key_1", "tokens_per_month", "2026-11") == 46
        assert (await store.spent("2026-11")).amount("key_1", "money_per_day", "2026-11-21") == 0
        return await store.usage()

    [row] = with_accounts(open_database, scenario)
    assert (row["requests"], row["prompt_tokens"], row["cached_tokens"], row["money"]) == (2, 36, 4, 14)


def test_what_the_database_does_not_take_is_kept_and_tried_again() -> None:
    ledger, taken = Ledger(), []

    class Accounts:
        broken = True

        async def write(self, entries: list[AuditEntry], usage: dict[UsageCell, Any]) -> None:
            if self.broken:
                raise StorageError("the disk is full")
            taken.extend(entries)

    class Keys:
        async def touch(self, _: Any) -> None:
            pass

    async def scenario() -> None:
        accounts = Accounts()

        async def stores() -> Any:
            return Keys(), accounts

        recorder = Recorder(ledger, KeyRing(), stores, audit_days=None, now=lambda: 0.0)
        ledger.record(ENTRY)
        ledger.use(UsageCell("key_1", "m", "2026-11-22"), Usage(1, 1), 0)
        with pytest.raises(StorageError):
            await recorder.flush()
        ledger.record(ENTRY._replace(request_id="req_2"))
        accounts.broken = False
        await recorder.close()

    asyncio.run(scenario())
    assert [entry.request_id for entry in taken] == ["req_1", "req_2"]


def test_a_flush_waits_for_what_another_one_is_writing() -> None:
    ledger, written = Ledger(), []

    class Accounts:
        def __init__(self) -> None:
            self.begun, self.may_end = asyncio.Event(), asyncio.Event()

        async def write(self, entries: list[AuditEntry], _: Any) -> None:
            self.begun.set()
            await self.may_end.wait()
            written.extend(entries)

    class Keys:
        async def touch(self, _: Any) -> None:
            pass

    async def scenario() -> None:
        accounts = Accounts()

        async def stores() -> Any:
            return Keys(), accounts

        recorder = Recorder(ledger, KeyRing(), stores, audit_days=None, now=lambda: 0.0)
        ledger.record(ENTRY)
        first = asyncio.create_task(recorder.flush())
        await accounts.begun.wait()
        second = asyncio.create_task(recorder.flush())
        await asyncio.sleep(0)
        accounts.may_end.set()
        await second
        assert written == [ENTRY]
        await first

    asyncio.run(scenario())


def test_a_full_ledger_refuses_work_that_could_not_be_recorded() -> None:
    ledger = Ledger(most_pending=2)
    ledger.record(ENTRY)
    ledger.check_room()
    ledger.record(ENTRY)
    with pytest.raises(OverloadedError, match="2 entries"):
        ledger.check_room()
