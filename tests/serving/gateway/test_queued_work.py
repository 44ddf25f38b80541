"""Work that a key leaves behind, batches and responses in the background: still the key's, as it is when it runs."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.build import build_gateway
from glm_crush.serving.gateway.records import Grant
from glm_crush.storage.lazy import LazyDatabase
from tests.serving.gateway.conftest import ADMIN, Serve
from tests.serving.gateway.test_keys_over_http import make_key

pytestmark = [pytest.mark.requirement("S6"), pytest.mark.requirement("S1")]

PATH: Any = "/v1/chat/completions"
LINE = {"method": "POST", "url": PATH, "body": {"messages": [{"role": "user", "content": "Hi"}]}}


def client_of(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


def create_batch(client: openai.OpenAI, number: int = 2) -> Any:
    lines = [json.dumps({"custom_id": f"l{n}", **LINE}) for n in range(number)]
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=PATH, completion_window="24h")


def ended(client: openai.OpenAI, batch: Any) -> Any:
    deadline = time.monotonic() + 30
    while batch.status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < deadline, batch
        batch = client.batches.retrieve(batch.id)
    return batch


def usage_of(url: str, key: Any) -> Any:
    rows = httpx2.get(f"{url}/admin/v1/usage", headers=ADMIN).json()["data"]
    return [(row["prompt_tokens"], row["completion_tokens"]) for row in rows if row["key_id"] == key["id"]]


def test_the_tokens_of_a_batch_count_for_the_key_that_created_it(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    with client_of(url, made["key"]) as client:
        batch = ended(client, create_batch(client))
        assert (batch.status, batch.request_counts.completed) == ("completed", 2)
    assert usage_of(url, made) == [(36, 10)]


def test_the_tokens_of_a_background_response_count_for_its_key(serve: Serve) -> None:
    url = serve().url
    made = make_key(url)
    with client_of(url, made["key"]) as client:
        response = client.responses.create(model="scripted", input="Hi", background=True)
        while response.status in ("queued", "in_progress"):
            response = client.responses.retrieve(response.id)
        assert response.status == "completed"
    assert usage_of(url, made) == [(18, 5)]


def test_a_key_for_files_gets_at_no_model_by_way_of_a_batch(serve: Serve) -> None:
    url = serve().url
    made = make_key(url, scopes=["files"])
    with client_of(url, made["key"]) as client, pytest.raises(openai.PermissionDeniedError):
        create_batch(client)


def test_a_line_that_never_fits_the_keys_limit_is_refused(serve: Serve) -> None:
    url = serve().url
    made = make_key(url, limits={"tokens_per_minute": 10})
    with client_of(url, made["key"]) as client:
        batch = ended(client, create_batch(client, 1))
        [record] = client.files.content(str(batch.error_file_id)).text.splitlines()
    assert json.loads(record)["response"]["status_code"] == 429
    assert usage_of(url, made) == []


def test_lines_of_a_key_that_was_revoked_are_refused(serve: Serve, scripted_engine: Any) -> None:
    """They wait for a client, and their key ends meanwhile."""
    engine = scripted_engine(hold_after=2, script=lambda prompt: "slow answer" if "hold" in prompt else "ok")
    url = serve(engine).url
    made, other = make_key(url), make_key(url)
    messages: Any = [{"role": "user", "content": "hold"}]
    with client_of(url, made["key"]) as client, client_of(url, other["key"]) as same_application:
        with same_application.chat.completions.create(model="scripted", messages=messages, stream=True):
            assert engine.holding.wait(20)
            batch = create_batch(client, 3)
            httpx2.post(f"{url}/admin/v1/keys/{made['id']}/revoke", headers=ADMIN)
        batch = ended(same_application, batch)
        records = same_application.files.content(str(batch.error_file_id)).text.splitlines()
    assert [json.loads(text)["response"]["status_code"] for text in records] == [401, 401, 401]


def test_a_server_that_has_not_looked_keys_up_yet_knows_the_key_of_queued_work(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    made = make_key(server.url)
    server.stop()
    database = LazyDatabase(StorageSettings(), tmp_path)
    gateway = build_gateway(ApiSettings(), GatewaySettings(), database).gateway

    async def grant() -> Grant:
        try:
            return await gateway.grant_of(made["id"])
        finally:
            await database.close()

    assert asyncio.run(grant()).key_id == made["id"]


def test_responses_and_batches_of_one_application_are_not_there_for_another(serve: Serve) -> None:
    url = serve().url
    shop, search = make_key(url, "shop")["key"], make_key(url, "search")["key"]
    with client_of(url, shop) as mine, client_of(url, search) as theirs:
        response, batch = mine.responses.create(model="scripted", input="Hi"), create_batch(mine)
        calls: list[Any] = [
            lambda: theirs.responses.retrieve(response.id),
            lambda: theirs.responses.delete(response.id),
            lambda: theirs.responses.input_items.list(response.id),
            lambda: theirs.batches.retrieve(batch.id),
            lambda: theirs.batches.cancel(batch.id),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                call()
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            theirs.responses.create(model="scripted", input="Hi", previous_response_id=response.id)
        assert theirs.batches.list().data == []
        assert ended(mine, batch).status == "completed"
