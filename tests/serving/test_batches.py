"""Batches: the requests of a file, run in idle time; what is done is done, whatever happens to the server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import CrushSettings, Settings, StorageSettings
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.openai.batches.lines import check_input
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.storage.lazy import LazyDatabase
from tests.engine.tiny_encoders import loaded_encoder
from tests.serving.batch_lines import CHAT, as_file, line

pytestmark = [pytest.mark.requirement("S1"), pytest.mark.requirement("S9")]


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


def test_texts_are_embedded_in_batches_too(start_server: Any, glm_home: Path, tmp_path: Path) -> None:
    settings = Settings(crush=CrushSettings(threads=1))
    encoders = ServedEncoders([serve_loaded_encoder("tiny-embed", loaded_encoder(tmp_path / "embed"), settings)])
    server = start_server(encoders=encoders, database=LazyDatabase(StorageSettings(), glm_home))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        lines = [line("a", url="/v1/embeddings", input="Hi", model="tiny-embed")]
        batch = ended(client, create(client, lines, "/v1/embeddings"))
        [output] = records(client, batch.output_file_id)
    for encoder in encoders:
        encoder.close()
    assert output["response"]["body"]["data"][0]["object"] == "embedding"
    assert batch.usage.input_tokens > 0


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
    deadline = time.monotonic() + 20
    while client.batches.retrieve(batch.id).request_counts.completed < 1:
        assert time.monotonic() < deadline
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
