"""`glm ps` and `glm stop` against a running server; what they say when there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.cli.server_status import StatusWatch
from glm_crush.client import Client
from glm_crush.config import ObservabilitySettings
from glm_crush.errors import ModelNotFoundError, UnreachableError
from glm_crush.serving.observability.part import Observability
from tests.cli.test_serve import serving

pytestmark = pytest.mark.requirement("S11", "O5")

Start = Callable[..., Any]


def observed(models: Any) -> Any:
    return [Observability(models, ObservabilitySettings())]


def test_a_model_is_shown_with_its_kind_and_how_busy_it_is(start_server: Start, glm: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = glm("ps", "--url", start_server(parts=observed).url).stdout.splitlines()
    assert printed[0].split() == [
        "model",
        "kind",
        "size",
        "context",
        "cache",
        "running",
        "waiting",
        "tokens/s",
        "until",
    ]
    assert printed[1].split()[:2] == ["scripted", "chat"]
    assert printed[1].split()[-1] == "stays"


def test_scripts_get_the_same_as_json_from_the_configured_server(
    start_server: Start, glm: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("GLM_CLIENT_URL", start_server(parts=observed).url)
    [row] = json.loads(glm("ps", "--json").stdout)
    assert (row["model"], row["kind"], row["context_length"], row["until"]) == ("scripted", "chat", 1000, None)
    assert row["tokens_per_second"] is None


def test_speed_is_what_was_written_between_two_looks(start_server: Start) -> None:
    with Client(start_server(parts=observed).url) as client:
        watch = StatusWatch(client)
        assert watch.look()[0].tokens_per_second is None
        client.chat("Hi")
        rate = watch.look()[0].tokens_per_second
        assert rate is not None
        assert rate > 0
        assert watch.look()[0].tokens_per_second == 0


def test_without_metrics_the_models_are_shown_all_the_same(start_server: Start, glm: Any) -> None:
    [row] = json.loads(glm("ps", "--json", "--url", start_server().url).stdout)
    assert (row["model"], row["running"], row["kv_cache_usage"]) == ("scripted", None, None)


@pytest.mark.parametrize(
    "verb", [("ps",), ("stop", "m"), ("stop", "--server"), ("logs",), ("batch", "list"), ("batch", "show", "b")]
)
def test_without_a_server_the_error_names_the_address_and_the_remedy(glm: Any, verb: tuple[str, ...]) -> None:
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 .*glm serve.*--url"):
        glm("--set", "client.max_retries=0", *verb, "--url", "http://127.0.0.1:9")


def test_a_stopped_model_is_out_of_memory_and_comes_back_when_it_is_asked_for(tiny_llama: Path, glm: Any) -> None:
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1", "--engine", "in-process") as (_, url, _lines):
        assert "tiny is out of memory" in glm("stop", "tiny", "--url", url).stderr
        assert json.loads(glm("ps", "--json", "--url", url).stdout) == []
        assert "no model in memory" in glm("ps", "--url", url).stderr
        with Client(url) as client:
            assert client.models.state("tiny").state == "unloaded"
            assert client.chat("Hi", max_tokens=2).usage is not None
            assert client.models.load("tiny", pin=True).pinned
            assert not client.models.unpin("tiny").pinned
            assert client.models.pin("tiny").pinned
            assert [model.name for model in client.models.loaded().data if model.state == "loaded"] == ["tiny"]
        [row] = json.loads(glm("ps", "--json", "--url", url).stdout)
        assert (row["model"], row["kind"], row["until"]) == ("tiny", "chat", None)


def test_stopping_a_model_that_is_not_there_says_so(start_server: Start, glm: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"other is not in memory at http.*glm ps"):
        glm("stop", "other", "--url", start_server(key="operator").url, "--api-key", "operator")


@pytest.mark.parametrize("arguments", [(), ("m", "--server"), ("m", "--delay", "3"), ("--server", "--delay", "-1")])
def test_either_a_model_or_the_server_is_stopped(glm: Any, arguments: tuple[str, ...]) -> None:
    assert glm("stop", *arguments, check=False).exit_code == 2
