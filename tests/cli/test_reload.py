"""A running `glm serve` takes new settings: on SIGHUP, on request, and when the file changes; or none of them."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.cli.test_serve import serving

pytestmark = pytest.mark.requirement("S9", "O3")

OPERATOR = {"authorization": "Bearer boot"}
SETTINGS: dict[str, dict[str, Any]] = {
    "api": {"key": "boot", "log_level": "warning"},
    "gateway": {"requests_per_minute": 100},
}


class Server:
    """One that runs, with the file that it was configured by."""

    def __init__(self, process: subprocess.Popen[str], url: str, file: Path) -> None:
        self.process = process
        self.url = url
        self.file = file
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        body = {"application": self.post("/admin/v1/applications", {"name": "shop"})["id"]}
        self.key = {"authorization": f"Bearer {self.post('/admin/v1/keys', body)['key']}"}

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += []
        for line in self.process.stderr:
            self.lines.append(line)

    def post(self, path: str, body: Any = None, status: int | None = None) -> Any:
        reply = httpx2.post(f"{self.url}{path}", json=body or {}, headers=OPERATOR, timeout=60)
        assert reply.status_code in ((200, 201) if status is None else (status,)), reply.text
        return reply.json()

    def configure(self, **sections: dict[str, Any]) -> None:
        write(
            self.file, {name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in {*SETTINGS, *sections}}
        )

    def limit(self) -> int:
        return int(
            httpx2.get(f"{self.url}/v1/models", headers=self.key, timeout=60).headers["x-ratelimit-limit-requests"]
        )

    def logged(self, text: str) -> bool:
        return any(text in line for line in self.lines)


def write(file: Path, settings: dict[str, dict[str, Any]]) -> None:
    lines = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    partial = file.with_suffix(".new")
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(file)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come"


@pytest.fixture
def server(tiny_llama: Path, glm_home: Path) -> Iterator[Server]:
    write(glm_home / "config.toml", SETTINGS)
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1") as (process, url, _):
        yield Server(process, url, glm_home / "config.toml")


def test_a_hangup_changes_limits_while_a_stream_runs_unharmed(server: Server) -> None:
    assert server.limit() == 100
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="boot", max_retries=0) as api:
        options: Any = {"model": "tiny", "prompt": [1, 2], "max_tokens": 40, "extra_body": {"ignore_eos": True}}
        stream = api.completions.create(**options, n=128, stream=True)
        begun = [next(stream)]
        write(server.file, SETTINGS | {"gateway": {"requests_per_minute": 200}})
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.limit() == 200)
        chunks = [*begun, *stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"] * 128


def test_a_changed_file_is_noticed_without_being_told(server: Server) -> None:
    origin = {"origin": "https://shop.example"}
    asked: Callable[[], Any] = lambda: httpx2.get(f"{server.url}/v1/models", headers=OPERATOR | origin, timeout=60)  # noqa: E731
    assert "access-control-allow-origin" not in asked().headers
    server.configure(gateway={"cors_origins": "https://shop.example"}, api={"log_level": "info"})
    wait_until(lambda: asked().headers.get("access-control-allow-origin") == "https://shop.example")
    wait_until(lambda: server.logged("in force now: api.log_level, gateway.cors_origins"))
    wait_until(lambda: server.logged("GET /v1/models 200"))
    server.configure()
    wait_until(lambda: "access-control-allow-origin" not in asked().headers)


def test_the_reply_names_what_is_in_force_and_what_needs_a_restart(server: Server) -> None:
    server.configure(gateway={"concurrency": 3, "max_headers": 50}, crush={"max_num_seqs": 2})
    expected = {
        "object": "reload",
        "applied": ["gateway.concurrency"],
        "needs_restart": ["crush.max_num_seqs", "gateway.max_headers"],
        "failed": {},
    }
    assert server.post("/admin/v1/reload") == expected
    assert server.post("/admin/v1/reload") == expected | {"applied": []}
    shown = httpx2.get(f"{server.url}/admin/v1/config", headers=OPERATOR, timeout=60).json()["data"]
    rows = {row["key"]: row for row in shown}
    origin = str(server.file)
    named = {"gateway.concurrency": (3, True, False), "gateway.max_headers": (100, False, True)}
    for key, (value, live, waits) in named.items():
        row = {"key": key, "value": value, "origin": origin, "live": live, "needs_restart": waits}
        assert rows[key] == row
    assert rows["api.key"]["value"] == "********"
    assert rows["crush.threads"] == {
        "key": "crush.threads",
        "value": 1,
        "origin": "flag",
        "live": False,
        "needs_restart": False,
    }


def test_a_file_that_is_wrong_changes_nothing_and_the_reply_says_why(server: Server) -> None:
    for wrong, said in (
        ("[gateway]\nrequests_per_minute = 'many'\n", "gateway.requests_per_minute is 'many'"),
        ("[gateway]\nrequest_per_minute = 1\n", "did you mean 'gateway.requests_per_minute'?"),
        ("[gateway\n", "cannot be read as TOML"),
    ):
        server.file.write_text("[api]\nlog_level = 'debug'\nkey = 'other'\n" + wrong)
        refused = server.post("/admin/v1/reload", status=400)["error"]
        assert refused["code"] == "invalid_configuration"
        assert said in refused["message"]
        assert server.limit() == 100
        assert server.post("/admin/v1/keys", {"application": "shop"})["object"]  # the operator's key is the old one
    wait_until(lambda: server.logged("the configuration has not changed: "))


def test_another_operators_key_holds_at_once_and_without_one_nobody_is_the_operator(server: Server) -> None:
    server.configure(api={"key": "new"})
    assert server.post("/admin/v1/reload")["applied"] == ["api.key"]
    assert httpx2.post(f"{server.url}/admin/v1/reload", headers=OPERATOR, timeout=60).status_code == 401
    new = {"authorization": "Bearer new"}
    assert httpx2.post(f"{server.url}/admin/v1/reload", headers=new, timeout=60).status_code == 200


def test_models_and_the_guards_policy_change_while_it_runs(tiny_llama: Path, glm_home: Path) -> None:
    settings = {**SETTINGS, "serving": {"models": f"a={tiny_llama}"}, "guard": {"input": "secrets=block"}}
    write(glm_home / "config.toml", settings)
    with serving("--threads", "1") as (process, url, _):
        server = Server(process, url, glm_home / "config.toml")

        def names() -> list[str]:
            return [
                model["id"] for model in httpx2.get(f"{url}/v1/models", headers=OPERATOR, timeout=60).json()["data"]
            ]

        def said(text: str, model: str) -> int:
            body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2}
            return httpx2.post(f"{url}/v1/chat/completions", json=body, headers=OPERATOR, timeout=60).status_code

        secret = "AKIAIOSFODNN7EXAMPLE is the key"
        assert (names(), said(secret, "a"), said("a", "a")) == (["a"], 400, 200)
        write(
            server.file,
            {**SETTINGS, "serving": {"models": f"a={tiny_llama}, b={tiny_llama}, c={glm_home}/nowhere"}},
        )
        reloaded = server.post("/admin/v1/reload")
        assert reloaded["applied"] == ["guard.input", "serving.models"]
        assert list(reloaded["failed"]) == ["c"]
        assert {"a", "b"} <= set(names())
        assert (said(secret, "a"), said(secret, "b")) == (200, 200)
        write(server.file, {**settings, "serving": {"models": f"b={tiny_llama}"}})
        assert server.post("/admin/v1/reload")["failed"] == {}
        assert (names(), said(secret, "b"), said("a", "b")) == (["b"], 400, 200)
        write(server.file, {**settings, "guard": {"input": "secrts=block"}})
        assert "did you mean 'secrets'?" in server.post("/admin/v1/reload", status=400)["error"]["message"]
        assert said(secret, "b") == 400
