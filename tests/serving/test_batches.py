"""Batches: the requests of a file, run in idle time; what is done is done, whatever happens to the server."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.errors import OverloadedError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.build import build_gateway
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.openai.batches.lines import check_input
from glm_crush.serving.openai.batches.runner import BatchRunner
from glm_crush.serving.openai.batches.store import BatchStore, LineResult, StoredBatch
from glm_crush.serving.openai.files.store import FileStore
from glm_crush.serving.openai.routes import openai_routes
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.blobs import BlobStore
from glm_crush.storage.database import Database
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.scripted import ByteCodec, ScriptedEngine
from tests.storage.databases import OpenDatabase

pytestmark = [pytest.mark.requirement("S1"), pytest.mark.requirement("S9")]

CHAT = "/v1/chat/completions"


def line(name: str, text: str = "Hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    if url == CHAT:
        body = {"messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def as_file(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)


@pytest.fixture
def server(start_server: Callable[..., Any], scripted_engine: Any, glm_home: Path) -> Any:
    engine = scripted_engine(script=lambda prompt: prompt.split("|")[0].removeprefix("user:").upper())
    return start_server(engine, database=LazyDatabase(StorageSettings(), glm_home))


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def create(client: openai.OpenAI, lines: list[Any], endpoint: Any = CHAT, **options: Any) -> Any:
    file = client.files.create(file=("in.jsonl", as_file(lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=options.pop("window", "24h"), **options
    )


def ended(client: openai.OpenAI, batch: Any) -> Any:
    deadline = time.monotonic() + 30
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        batch = client.batches.retrieve(batch.id)
    return batch


def records(client: openai.OpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


# --- through the client ---


def test_every_request_of_the_file_is_answered(client: openai.OpenAI, server: Any) -> None:
    batch = create(client, [line("a", "one"), line("b", "two")], metadata={"job": "7"})
    assert (batch.status, batch.metadata) == ("validating", {"job": "7"})
    batch = ended(client, batch)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (2, 2, 0)
    replies = {r["custom_id"]: r["response"]["body"] for r in records(client, batch.output_file_id)}
    answers = {name: reply["choices"][0]["message"]["content"] for name, reply in replies.items()}
    assert answers == {"a": "ONE", "b": "TWO"}
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (38, 6)
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at <= batch.expires_at
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_lines_run_at_the_lowest_priority(client: openai.OpenAI, server: Any) -> None:
    ended(client, create(client, [line("a")]))
    client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x"}])
    assert server.engine.priorities == [10, 0]


def test_a_request_that_is_refused_goes_into_the_error_file(client: openai.OpenAI) -> None:
    batch = ended(client, create(client, [line("good"), line("bad", temperature=500)]))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 1)
    [error] = records(client, batch.error_file_id)
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert error["response"]["body"]["error"]["param"] == "temperature"
    [output] = records(client, batch.output_file_id)
    assert output["response"]["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("endpoint", "body", "text"),
    [
        ("/v1/completions", {"prompt": "Hi"}, lambda body: body["choices"][0]["text"]),
        ("/v1/responses", {"input": "Hi"}, lambda body: body["output"][0]["content"][0]["text"]),
    ],
)
def test_other_endpoints_run_too(client: openai.OpenAI, endpoint: str, body: dict[str, Any], text: Any) -> None:
    batch = ended(client, create(client, [line("a", url=endpoint, **body)], endpoint))
    [output] = records(client, batch.output_file_id)
    assert text(output["response"]["body"]) == "HI"
    assert batch.usage.total_tokens > 0


def test_an_input_that_is_wrong_is_refused_line_by_line(client: openai.OpenAI) -> None:
    lines = [line("a"), line("a"), line("b", url="/v1/completions"), ["x"], line("c", stream=True)]
    batch = ended(client, create(client, lines))
    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "mismatched_url", "url"),
        (4, "invalid_json_line", None),
        (5, "invalid_request", "body.stream"),
    ]


def test_a_batch_is_cancelled_and_keeps_what_is_done(start_server: Any, scripted_engine: Any, glm_home: Path) -> None:
    engine = scripted_engine(hold_after=2, script=lambda prompt: "ok" if "quick" in prompt else "slow answer")
    server = start_server(engine, database=LazyDatabase(StorageSettings(batch_concurrency=2), glm_home))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    batch = create(client, [line("quick", "quick"), line("held"), line("later"), line("last")])
    assert engine.holding.wait(20)
    while client.batches.retrieve(batch.id).request_counts.completed < 1:
        pass
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("cancelled", 1, 3)
    assert [r["custom_id"] for r in records(client, batch.output_file_id)] == ["quick"]
    assert [(r["custom_id"], r["error"]["code"]) for r in records(client, batch.error_file_id)] == [
        (name, "batch_cancelled") for name in ("held", "later", "last")
    ]
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_finished_batch_cannot_be_cancelled(client: openai.OpenAI) -> None:
    batch = ended(client, create(client, [line("a")]))
    with pytest.raises(openai.BadRequestError, match="is completed"):
        client.batches.cancel(batch.id)


def test_batches_are_listed_newest_first_in_pages(client: openai.OpenAI) -> None:
    ids = [ended(client, create(client, [line("a")])).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_no")


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"endpoint": "/v1/embeddings/x"}, "endpoint"),
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"input_file_id": "file-no"}, "input_file_id"),
        ({"metadata": {"a" * 65: "b"}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(
    server: Any, client: openai.OpenAI, change: dict[str, Any], parameter: str
) -> None:
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}
    response = httpx2.post(f"{server.url}/v1/batches", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, parameter), response.text


def test_a_file_for_another_purpose_is_no_input(client: openai.OpenAI) -> None:
    file = client.files.create(file=("in.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose batch"):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_an_empty_file_is_refused() -> None:
    report = check_input(io.BytesIO(b"\n\n"), CHAT)
    assert [error["code"] for error in report.errors] == ["empty_file"]


# --- the runner, with a clock and on both databases ---


class Bench:
    """A database with batches, and servers over it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.time = 1000.0
        self.blobs = BlobStore(folder, max_blob_bytes=10_000)
        self.clients = 0
        self.files = FileStore(database, self.blobs, now=lambda: self.time)

    async def open(self) -> None:
        await self.files.open()

    async def server(
        self, name: str, engine: ScriptedEngine, *, concurrency: int = 1
    ) -> tuple[BatchStore, BatchRunner]:
        store = BatchStore(self.database, owner=name, now=lambda: self.time)
        await store.open()
        models = ServedModels(
            [ServedModel(name="scripted", engine=engine, codec=ByteCodec(), context_length=1000, vocab_size=256)]
        )
        gateway = build_gateway(ApiSettings(), GatewaySettings(), None).gateway
        caller = InProcessCaller(openai_routes(models, ApiSettings()), gateway)
        runner = BatchRunner(
            store,
            self.files,
            caller,
            num_clients=lambda: models.num_all_users() + self.clients,
            concurrency=concurrency,
        )
        return store, runner

    async def batch(self, store: BatchStore, lines: list[Any], *, seconds: float = 1000) -> str:
        with await self.files.writer() as writer:
            writer.write(as_file(lines))
            file = await self.files.add(writer, tenant="local", purpose="batch", filename="in")
        await store.add(
            StoredBatch(
                id="batch_1",
                tenant="local",
                key_id=None,
                created_at=self.time,
                expires_at=self.time + seconds,
                status="validating",
                endpoint=CHAT,
                input_file_id=file.id,
                request={"completion_window": "24h"},
            )
        )
        return "batch_1"

    async def ended(self, store: BatchStore) -> StoredBatch:
        async with asyncio.timeout(20):
            while True:
                batch = await store.find("local", "batch_1")
                assert batch is not None
                if not batch.is_unfinished:
                    return batch
                await asyncio.sleep(0.01)

    async def output(self, batch: StoredBatch, *, errors: bool = False) -> list[Any]:
        file_id = batch.error_file_id if errors else batch.output_file_id
        file = await self.files.find("local", str(file_id))
        with await self.files.open_content(file) as content:
            return [json.loads(text) for text in content]


def run(open_database: OpenDatabase, tmp_path: Path, scenario: Callable[[Bench], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with open_database() as database:
            bench = Bench(database, tmp_path / "blobs")
            await bench.open()
            return await scenario(bench)

    return asyncio.run(main())


def test_a_line_that_is_done_is_never_run_again(open_database: OpenDatabase, tmp_path: Path) -> None:
    """The server dies while the third of five lines runs: the next one runs the third, fourth and fifth."""

    async def scenario(bench: Bench) -> Any:
        dying = ScriptedEngine()
        count = 0

        def script(prompt: str) -> str:
            nonlocal count
            count += 1
            if count == 3:
                dying.hold_after = 0
            return "ok"

        dying.script = script
        store, runner = await bench.server("dying", dying)
        await bench.batch(store, [line(f"l{n}", f"t{n}") for n in range(5)])
        runner.wake()
        await asyncio.to_thread(dying.holding.wait, 20)
        bench.time += 16  # its leases are not renewed
        heir = ScriptedEngine(script=lambda prompt: "ok")
        store, other = await bench.server("heir", heir)
        other.wake()
        batch = await bench.ended(store)
        await other.close()
        await runner.close()
        assert (batch.status, batch.completed, batch.failed) == ("completed", 5, 0)
        assert [r["custom_id"] for r in await bench.output(batch)] == [f"l{n}" for n in range(5)]
        return [prompt.split("|")[0] for prompt in dying.prompts], [prompt.split("|")[0] for prompt in heir.prompts]

    first, second = run(open_database, tmp_path, scenario)
    assert first == ["user:t0", "user:t1", "user:t2"]
    assert second == ["user:t2", "user:t3", "user:t4"]


def test_a_server_that_stops_in_order_leaves_its_batches_at_once(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        held = ScriptedEngine(hold_after=0)
        store, runner = await bench.server("stopping", held)
        await bench.batch(store, [line("a")])
        runner.wake()
        await asyncio.to_thread(held.holding.wait, 20)
        await runner.close()
        store, other = await bench.server("heir", ScriptedEngine())
        other.wake()
        batch = await bench.ended(store)
        await other.close()
        return batch.status, batch.completed

    assert run(open_database, tmp_path, scenario) == ("completed", 1)


def test_a_batch_that_runs_out_of_time_ends_with_what_it_has(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        engine = ScriptedEngine(hold_after=2, script=lambda prompt: "ok" if "quick" in prompt else "slow answer")
        store, runner = await bench.server("one", engine)
        await bench.batch(store, [line("q", "quick"), line("held"), line("never")], seconds=100)
        runner.wake()
        await asyncio.to_thread(engine.holding.wait, 20)
        bench.time += 5
        runner.wake()  # renews
        await asyncio.sleep(0)
        bench.time += 95
        await store.renew({"batch_1"})
        runner.wake()
        batch = await bench.ended(store)
        await runner.close()
        errors = [(r["custom_id"], r["error"]["code"]) for r in await bench.output(batch, errors=True)]
        return batch.status, batch.completed, batch.failed, errors

    expired = [("held", "batch_expired"), ("never", "batch_expired")]
    assert run(open_database, tmp_path, scenario) == ("expired", 1, 2, expired)


def test_no_line_begins_while_a_client_waits(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        engine = ScriptedEngine()
        store, runner = await bench.server("one", engine)
        bench.clients = 1
        await bench.batch(store, [line("a")])
        runner.wake()
        while (await store.find("local", "batch_1")).status == "validating":  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        for _ in range(10):
            await asyncio.sleep(0.01)
        begun = len(engine.prompts)
        bench.clients = 0
        batch = await bench.ended(store)
        await runner.close()
        return begun, batch.completed

    assert run(open_database, tmp_path, scenario) == (0, 1)


def test_a_full_queue_is_waited_for(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        engine = ScriptedEngine(refuse=OverloadedError("full", retry_after_seconds=0.01))
        store, runner = await bench.server("one", engine)
        await bench.batch(store, [line("a")])
        runner.wake()
        while (await store.find("local", "batch_1")).status == "validating":  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        engine.refuse = None
        batch = await bench.ended(store)
        await runner.close()
        return batch.completed, batch.failed

    assert run(open_database, tmp_path, scenario) == (1, 0)


def test_a_result_is_counted_once(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        store, _ = await bench.server("one", ScriptedEngine())
        await bench.batch(store, [line("a")])
        result = LineResult(1, False, {"id": "x"}, {"input_tokens": 3})
        outcomes = [await store.add_line("batch_1", result), await store.add_line("batch_1", result)]
        batch = await store.find("local", "batch_1")
        assert batch is not None
        return outcomes, batch.completed, batch.usage["input_tokens"]

    assert run(open_database, tmp_path, scenario) == ([True, False], 1, 3)


def test_a_batch_whose_input_is_deleted_fails_and_says_so(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> Any:
        store, runner = await bench.server("one", ScriptedEngine())
        await bench.batch(store, [line("a")])
        batch = await store.find("local", "batch_1")
        assert batch is not None
        await bench.files.delete("local", batch.input_file_id)
        runner.wake()
        batch = await bench.ended(store)
        await runner.close()
        return batch.status, batch.errors[0]["code"]  # type: ignore[index]

    assert run(open_database, tmp_path, scenario) == ("failed", "input_file_gone")
