"""The runner of batches with a clock, on both databases: what is done is done, whatever happens to the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.config import ApiSettings
from glm_crush.errors import OverloadedError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.build import build_gateway
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.openai.batches.runner import BatchRunner
from glm_crush.serving.openai.batches.store import BatchStore, LineResult, StoredBatch
from glm_crush.serving.openai.files.store import FileStore
from glm_crush.serving.openai.routes import openai_routes
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.blobs import BlobStore
from glm_crush.storage.database import Database
from tests.serving.batch_lines import CHAT, as_file, line
from tests.serving.scripted import ByteCodec, ScriptedEngine
from tests.storage.databases import OpenDatabase

pytestmark = [pytest.mark.requirement("S1"), pytest.mark.requirement("S9")]


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

    async def begun(self, store: BatchStore) -> None:
        async with asyncio.timeout(20):
            while (await store.find("local", "batch_1")).status == "validating":  # type: ignore[union-attr]
                await asyncio.sleep(0.01)

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
        await bench.begun(store)
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
        await bench.begun(store)
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
