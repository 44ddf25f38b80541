"""Models fetched over Ollama's API, from a hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from glm_crush.config import ApiSettings
from glm_crush.serving.app import create_app
from glm_crush.weights.store import ModelStore, SourceSettings
from tests.weights.test_store_sources import GGUF, hub
from tests.weights.web_server import Web, serving

pytestmark = pytest.mark.requirement("S2")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as started:
        yield started


@pytest.fixture
def api(web: Web, tmp_path: Path, loopback_server: Any) -> Iterator[ollama.Client]:
    url, current = loopback_server
    store = ModelStore(tmp_path / "home", SourceSettings(hub_endpoint=web.url + "/hub"))
    current.app = create_app([], ApiSettings(), store=store)
    with ollama.Client(url) as client:
        yield client


def test_a_pull_tells_its_progress_and_the_model_is_then_listed_and_can_be_removed(
    api: ollama.Client, web: Web
) -> None:
    hub(web, {"model.Q4_0.gguf": GGUF})
    parts = list(api.pull("hf.co/org/name", stream=True))
    statuses = [part.status for part in parts]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    [last] = [part for part in parts if part.completed == part.total == len(GGUF)][-1:]
    assert last.digest == "model.Q4_0.gguf"
    [stored] = api.list().models
    assert (stored.model, stored.size) == ("hf.co/org/name", len(GGUF))
    assert api.show("hf.co/org/name").details.format == "gguf"
    assert api.pull("hf.co/org/name").status == "success"
    api.copy("hf.co/org/name", "second")
    assert [model.model for model in api.list().models] == ["hf.co/org/name", "second"]
    api.delete("second")
    api.delete("hf.co/org/name")
    assert api.list().models == []


def test_a_pull_that_fails_says_why_streamed_or_not(api: ollama.Client, web: Web) -> None:
    with pytest.raises(ollama.ResponseError, match="org/none"):
        list(api.pull("hf:org/none", stream=True))
    with pytest.raises(ollama.ResponseError, match="org/none") as caught:
        api.pull("hf:org/none")
    assert caught.value.status_code == 502


def test_what_is_not_there_cannot_be_copied_or_removed(api: ollama.Client) -> None:
    for call in (lambda: api.copy("none", "other"), lambda: api.delete("none"), lambda: api.pull("none")):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 404


def test_a_stored_model_that_is_not_served_cannot_answer(api: ollama.Client, web: Web) -> None:
    hub(web, {"model.Q4_0.gguf": GGUF})
    api.pull("hf:org/name")
    with pytest.raises(ollama.ResponseError, match=r"no model is served|not served here"):
        api.chat("name", [])
