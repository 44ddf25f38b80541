"""What clients of the server see when the engine's process dies: an error event, an answer, or 503, never silence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.engine.process.engine_process import EngineProcess
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("S9", "N11")

LONG: Any = {"model": "tiny", "prompt": [1, 2], "n": 128, "max_tokens": 40, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    return load_model(tiny_checkpoint("llama", folder), cache_dir=folder / "packed", weight_format="f32")


@pytest.fixture
def served(loaded: Any, loopback_server: Any, request: pytest.FixtureRequest) -> Iterator[tuple[openai.OpenAI, Any]]:
    url, current = loopback_server
    flags = {"crush.threads": 1, "crush.max_num_seqs": 4, **getattr(request, "param", {})}
    model, engine = serve_loaded_model("tiny", loaded, load_settings(flags=flags))
    assert isinstance(engine, EngineProcess)
    current.app = create_app([model], ApiSettings())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client, engine
    engine.close()


def wait_for(path: str, status: int, client: openai.OpenAI) -> httpx2.Response:
    """Ask until the server answers with this status."""
    url = str(client.base_url).removesuffix("/v1/") + path
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        response = httpx2.get(url)
        if response.status_code == status:
            return response
    raise AssertionError(f"{path} never answered {status}")


def kill(engine: EngineProcess) -> None:
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)


def test_a_stream_that_had_begun_ends_with_an_error_event_and_the_next_request_is_answered(served: Any) -> None:
    client, engine = served
    stream = client.completions.create(**LONG, stream=True)
    next(iter(stream))
    kill(engine)
    with pytest.raises(openai.APIError, match="in the middle of the reply") as caught:
        list(stream)
    assert caught.value.code == "engine_stopped"
    assert client.completions.create(model="tiny", prompt=[1, 2], max_tokens=4).usage.completion_tokens > 0


@pytest.mark.parametrize("served", [{"api.resume_streams": "true"}], indirect=True)
def test_with_resume_streams_the_next_process_goes_on_where_the_stream_stood(served: Any) -> None:
    client, engine = served
    whole = client.completions.create(**LONG, seed=1)
    stream = client.completions.create(**LONG, seed=1, stream=True)
    texts = [""] * 128
    for number, chunk in enumerate(stream):
        if number == 10:
            kill(engine)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_requests_that_are_answered_whole_do_not_notice(served: Any) -> None:
    client, engine = served

    def complete(seed: int) -> list[str]:
        return [choice.text for choice in client.completions.create(**LONG, seed=seed, temperature=1.0).choices]

    undisturbed = [complete(seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(complete, seed) for seed in range(2)]
        while engine.num_running == 0 and not futures[0].done():
            time.sleep(0.001)
        killed = engine.pid
        kill(engine)
        assert [future.result() for future in futures] == undisturbed
    assert engine.pid != killed


def test_the_server_says_that_it_is_not_ready_until_the_engine_is_back(served: Any) -> None:
    client, engine = served
    assert wait_for("/ready", 200, client)
    kill(engine)
    assert wait_for("/ready", 503, client).json()["stopped"] == ["tiny"]
    assert wait_for("/ready", 200, client).json() == {"status": "ready", "models": ["tiny"]}


@pytest.mark.parametrize(
    "served", [{"api.engine_restarts_per_minute": "1", "api.engine_wait_seconds": "0"}], indirect=True
)
def test_while_it_waits_to_be_started_again_requests_get_503_with_a_time(served: Any) -> None:
    client, engine = served
    for _ in range(2):
        kill(engine)
        wait_for("/ready", 503, client)
        if _ == 0:
            wait_for("/ready", 200, client)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="tiny", prompt=[1, 2], max_tokens=4)
    assert caught.value.status_code == 503
    assert 1 < int(caught.value.response.headers["retry-after"]) <= 60
    assert wait_for("/health", 200, client)
