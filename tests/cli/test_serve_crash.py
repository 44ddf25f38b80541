"""`glm serve` killed in the middle of its work: what it had acknowledged is there, and the next server finishes it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.cli.test_serve import serving

pytestmark = [pytest.mark.requirement("S9"), pytest.mark.requirement("N11")]


def line(number: int) -> dict[str, Any]:
    body = {"prompt": f"line {number}", "max_tokens": 30, "ignore_eos": True, "temperature": 0}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/completions", "body": body}


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_killed_servers_responses_and_batches_are_finished_by_the_next(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("GLM_STORAGE_URL", database_url)
    monkeypatch.setenv("GLM_STORAGE_LEASE_SECONDS", "1")
    arguments = (str(tiny_llama), "--name", "tiny", "--threads", "1")
    with serving(*arguments) as (process, url, _), client_of(url) as api:
        kept = api.responses.create(model="tiny", input="hello", max_output_tokens=4)
        content = b"\n".join(json.dumps(line(number)).encode() for number in range(40))
        file = api.files.create(file=("in.jsonl", content), purpose="batch")
        batch = api.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        deadline = time.monotonic() + 60
        while api.batches.retrieve(batch.id).request_counts.completed < 3:
            assert time.monotonic() < deadline
        begun = api.responses.create(model="tiny", input="hello", background=True, max_output_tokens=40)
        process.kill()
    with serving(*arguments) as (_, url, _), client_of(url) as api:
        assert api.responses.retrieve(kept.id).output_text == kept.output_text
        follow_up = api.responses.create(model="tiny", input="more", previous_response_id=kept.id, max_output_tokens=2)
        assert follow_up.usage.input_tokens > kept.usage.input_tokens
        deadline = time.monotonic() + 60
        while (batch := api.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < deadline, batch
        while (begun := api.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
            assert time.monotonic() < deadline, begun
        assert begun.status in ("completed", "incomplete"), begun.error
        assert batch.request_counts.completed == 40
        records = [json.loads(text) for text in api.files.content(str(batch.output_file_id)).text.splitlines()]
    assert [record["custom_id"] for record in records] == [f"line-{number}" for number in range(40)]
    assert {record["response"]["status_code"] for record in records} == {200}
