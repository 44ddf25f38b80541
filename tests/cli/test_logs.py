"""`glm logs` against a real server process: what was written before, what comes, and the key for it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_crush.client import Client
from glm_crush.errors import AccessDeniedError
from tests.cli.test_serve import serving

pytestmark = pytest.mark.requirement("S11", "O5")


@pytest.fixture
def url(tiny_llama: Path, glm_home: Path) -> Iterator[str]:
    with serving(str(tiny_llama), "--name", "tiny", "--threads", "1", "--engine", "in-process") as (_, address, _lines):
        yield address


def lines(glm: Any, *arguments: str) -> list[Any]:
    return [json.loads(line) for line in glm("logs", "--json", *arguments).stdout.splitlines()]


def test_the_owner_of_the_machine_sees_what_was_written_and_what_comes(url: str, glm: Any, glm_home: Path) -> None:
    with Client(url, headers={"x-request-id": "mine"}) as client:
        client.version()
        client.chat("Hi", max_tokens=2)
    found = lines(glm, "--url", url)
    assert [line["path"] for line in found if "path" in line][:2] == ["/version", "/v1/chat/completions"]
    secret = glm_home / "operator.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert lines(glm, "--url", url, "--request", "mine")[0]["path"] == "/version"
    assert len(lines(glm, "--url", url, "-n", "1")) == 1
    assert lines(glm, "--url", url, "--level", "error") == []
    assert " info " in glm("logs", "--url", url).stdout
    [key] = json.loads(glm("keys", "list", "--json").stdout)
    glm("keys", "revoke", key["id"])
    kept = secret.read_text()
    assert lines(glm, "--url", url)
    assert secret.read_text() != kept
    with pytest.raises(AccessDeniedError):
        glm("logs", "--url", url, "--api-key", "wrong")


def test_following_goes_on_until_it_is_interrupted(url: str, glm: Any) -> None:
    lines(glm, "--url", url)  # the operator's key is there now
    # Tests that a shell runs in the background ignore SIGINT, and so would their children.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = [sys.executable, "-c", f"{hear}; from glm_crush.cli.main import main; main()"]
    command = [*start, "logs", "-f", "-n", "0", "--json", "--url", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    heard = threading.Event()

    def be_busy() -> None:
        with Client(url) as client:
            while not heard.wait(0.05):
                client.version()

    busy = threading.Thread(target=be_busy)
    busy.start()
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["path"] == "/version"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        heard.set()
        busy.join()
        process.kill()
        process.communicate(timeout=20)


def test_a_key_for_something_else_does_not_open_the_log(url: str, glm: Any) -> None:
    key = glm("keys", "create", "shop").stdout.strip()
    with pytest.raises(AccessDeniedError, match="admin"):
        glm("logs", "--url", url, "--api-key", key)
