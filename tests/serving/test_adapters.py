"""LoRA adapters over HTTP: loaded and unloaded while the server runs, chosen by model name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import tiny_adapter

PROMPT = {"prompt": [5, 9, 2, 7], "max_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["process", "thread"])
def served(request: Any, base: Path, loopback_server: Any) -> Iterator[tuple[httpx.Client, Any]]:
    url, current = loopback_server
    flags = {"crush.threads": 1, "crush.kv_cache_tokens": 512, "api.engine_process": request.param == "process"}
    loaded = load_model(base, cache_dir=base.parent / "packed", weight_format="f32")
    model, engine = serve_loaded_model("tiny", loaded, load_settings(flags=flags))
    current.app = create_app([model], ApiSettings())
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client, engine
    engine.close()


def text(client: httpx.Client, model: str) -> str:
    reply = client.post("/v1/completions", json={**PROMPT, "model": model})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def refusal(client: httpx.Client, path: str, **body: Any) -> tuple[int, str]:
    reply = client.post(path, json=body)
    return reply.status_code, reply.json()["error"]["message"]


def test_an_adapter_is_a_model_until_it_is_unloaded(tmp_path: Path, base: Path, served: Any) -> None:
    client, engine = served
    folder = str(tiny_adapter(tmp_path / "a", base))
    plain = text(client, "tiny")
    reply = client.post("/v1/load_lora_adapter", json={"lora_name": "poet", "lora_path": folder})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'poet' added successfully.")
    changed = text(client, "poet")
    assert changed != plain == text(client, "tiny")
    cards = client.get("/v1/models").json()["data"]
    assert [(c["id"], c["parent"], c["root"]) for c in cards] == [("tiny", None, "tiny"), ("poet", "tiny", folder)]

    if hasattr(engine, "pid"):  # the next child has it too
        before = engine.pid
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while engine.pid == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text(client, "poet") == changed

    reply = client.post("/v1/unload_lora_adapter", json={"lora_name": "poet"})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'poet' removed successfully.")
    reply = client.post("/v1/completions", json={**PROMPT, "model": "poet"})
    assert reply.status_code == 404
    assert text(client, "tiny") == plain


def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path, base: Path, served: Any) -> None:
    client, _ = served
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    status, message = refusal(client, load, lora_name="a", lora_path=str(tmp_path / "none"))
    assert (status, "is no folder" in message) == (400, True)
    status, message = refusal(client, load, lora_name="a", lora_path="x" * 4000)  # longer than a file's name can be
    assert (status, "is no folder" in message) == (400, True)
    status, message = refusal(client, load, lora_name="tiny", lora_path=str(tmp_path))
    assert (status, "served already" in message) == (400, True)
    folder = str(tiny_adapter(tmp_path / "d", base, use_dora=True))
    status, message = refusal(client, load, lora_name="a", lora_path=folder)
    assert (status, "DoRA" in message) == (400, True)
    status, message = refusal(client, unload, lora_name="a")
    assert (status, "no adapter 'a'" in message) == (404, True)
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["tiny"]
