"""`glm serve` as a process: ready, answering, stopping; and what it refuses before loading anything."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings
from glm_crush.errors import ConfigError, GlmError
from glm_crush.serving.app import create_app
from glm_crush.serving.server import bind, run_server, server_url
from tests.models.tiny_adapter import tiny_adapter

pytestmark = pytest.mark.requirement("S1", "O1")

COMMAND = [sys.executable, "-c", "from glm_crush.cli.main import main; main()"]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server process, its URL and what it printed until it was ready."""
    command = [*COMMAND, "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
    printed: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            printed.append(line)
            if "/docs" in line:
                break
        match = re.search(r"http://127\.0\.0\.1:\d+", "".join(printed))
        assert match, "".join(printed)
        yield process, match[0], printed
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_a_served_model_answers_and_a_signal_stops_it(tiny_llama: Path) -> None:
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1") as (process, url, printed):
        text = "".join(printed)
        assert f"curl {url}/v1/chat/completions" in text
        assert f'openai.OpenAI(base_url="{url}/v1"' in text
        assert f"glm chat --url {url}" in text
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
            messages: Any = [{"role": "user", "content": "hello"}]
            reply = api.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
            streamed = api.chat.completions.create(
                model="tiny", messages=messages, max_tokens=4, temperature=0, stream=True
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        assert text == reply.choices[0].message.content
        assert httpx2.get(f"{url}/ready").json()["models"] == ["tiny"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(("place", "num_children"), [("process", 1), ("in-process", 0)])
def test_the_engine_runs_where_it_is_told_to(tiny_llama: Path, place: str, num_children: int) -> None:
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1", "--engine", place) as (process, url, _):
        assert httpx2.get(f"{url}/ready").json()["models"] == ["tiny"]
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        assert sum(len((task / "children").read_text().split()) for task in tasks) == num_children


def test_adapters_are_served_beside_the_model(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", tiny_llama)
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1", "--lora", f"poet={adapter}") as (
        _,
        url,
        _printed,
    ):
        body = {"prompt": "hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        replies = [httpx2.post(f"{url}/v1/completions", json={**body, "model": name}) for name in ("tiny", "poet")]
        texts = [reply.json()["choices"][0]["text"] for reply in replies]
        assert texts[0] != texts[1]
        assert httpx2.get(f"{url}/ready").json()["models"] == ["tiny", "poet"]


def test_an_adapter_without_a_name_is_refused(glm: Any) -> None:
    result = glm("serve", "--lora", "folder", check=False)
    assert result.exit_code == 2
    assert "is not NAME=PATH" in result.output


def test_other_machines_need_a_key(glm: Any) -> None:
    with pytest.raises(ConfigError, match="nobody has one"):
        glm("serve", "--host", "0.0.0.0")


def test_other_machines_may_come_when_somebody_has_a_key(glm: Any) -> None:
    glm("keys", "create", "shop")
    with pytest.raises(GlmError, match="no-such-model"):  # that far, and no further
        glm("serve", "no-such-model", "--host", "0.0.0.0", "--port", "0")


def test_a_taken_port_is_refused_before_the_model_is_loaded(glm: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port \d+"):
            glm("serve", "no-such-model", "--port", str(taken.getsockname()[1]))


def test_while_serving_threads_switch_within_half_a_millisecond() -> None:
    before, seen = sys.getswitchinterval(), []

    def ready(_: str) -> None:
        seen.append(sys.getswitchinterval())
        signal.raise_signal(signal.SIGTERM)

    settings = ApiSettings(port=0)
    with bind(settings) as bound:
        run_server(create_app([], settings), bound, settings, on_ready=ready)
    assert seen == [pytest.approx(0.0005)]
    assert sys.getswitchinterval() == before


def test_the_same_routes_are_served_at_a_second_port() -> None:
    settings = ApiSettings(port=0)
    answers: list[object] = []

    def ask(urls: list[str]) -> None:
        answers.extend(httpx2.get(f"{url}/api/version").json() for url in urls)
        signal.raise_signal(signal.SIGTERM)

    with bind(settings) as bound, bind(settings, 0) as second:
        urls = [server_url(bound), server_url(second)]
        asking = threading.Thread(target=ask, args=(urls,))
        run_server(create_app([], settings), bound, settings, on_ready=lambda _: asking.start(), also=[second])
        asking.join(20)
    assert urls[0] != urls[1]
    assert answers == [{"version": installed_version("glm-crush")}] * 2
