"""`glm batch` against a running server: a file in, results out, and where an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.client import BatchRequest, Client
from glm_crush.config import StorageSettings
from glm_crush.errors import GlmError, RecordNotFoundError, RequestError
from glm_crush.storage.lazy import LazyDatabase

pytestmark = pytest.mark.requirement("S11", "O5")

Batch = Callable[..., Any]


@pytest.fixture
def server(start_server: Callable[..., Any], scripted_engine: Any, glm_home: Path, monkeypatch: Any) -> Any:
    engine = scripted_engine(script=lambda prompt: prompt.split("|")[0].removeprefix("user:").upper())
    running = start_server(engine, database=LazyDatabase(StorageSettings(), glm_home))
    monkeypatch.setenv("GLM_CLIENT_URL", running.url)
    return running


@pytest.fixture
def batch(server: Any, glm: Any) -> Batch:
    return lambda *arguments, check=True: glm("batch", *map(str, arguments), check=check)


def requests(path: Path, *names: str, **options: Any) -> Path:
    path.write_bytes(b"".join(BatchRequest.chat(name, f"say {name}", **options).line() for name in names))
    return path


def contents(path: Path) -> dict[str, str]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in records}


def test_a_file_is_run_and_its_results_are_written(batch: Batch, tmp_path: Path) -> None:
    done = batch("run", requests(tmp_path / "in.jsonl", "a", "b"), "-o", tmp_path / "out.jsonl")
    assert contents(tmp_path / "out.jsonl") == {"a": "SAY A", "b": "SAY B"}
    assert "2 answered, 0 failed" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["in.jsonl", "out.jsonl"]


def test_a_request_that_failed_is_in_the_results_and_in_the_exit_code(batch: Batch, tmp_path: Path) -> None:
    file = requests(tmp_path / "in.jsonl", "bad", top_p=3.0)
    done = batch("run", file, "-o", tmp_path / "out.jsonl", check=False)
    assert (done.exit_code, "0 answered, 1 failed" in done.stderr) == (1, True)
    assert json.loads((tmp_path / "out.jsonl").read_text())["response"]["status_code"] == 400


def test_the_same_command_goes_on_with_what_an_interrupted_one_submitted(
    batch: Batch, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = requests(tmp_path / "in.jsonl", "a"), tmp_path / "out.jsonl"

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("glm_crush.cli.batch_run.BatchRun.wait", interrupted)
        stopped = batch("run", file, "-o", output, check=False)
    assert (stopped.exit_code, "goes on" in stopped.stderr) == (130, True)
    with pytest.raises(GlmError, match="is of another file"):
        batch("run", requests(tmp_path / "else.jsonl", "z"), "-o", output)
    assert "going on with batch_" in batch("run", file, "-o", output).stderr
    assert contents(output) == {"a": "SAY A"}
    with Client(server.url) as client:
        assert len(list(client.batches.list())) == 1
    with pytest.raises(GlmError, match="is there already"):
        batch("run", file, "-o", output)


def test_what_the_server_has_forgotten_is_submitted_anew(batch: Batch, server: Any, tmp_path: Path) -> None:
    file, output = requests(tmp_path / "in.jsonl", "a"), tmp_path / "out.jsonl"
    import hashlib

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    state = {"batch": "batch_gone", "url": server.url, "sha256": digest}
    (tmp_path / "out.jsonl.batch").write_text(json.dumps(state))
    batch("run", file, "-o", output)
    assert contents(output) == {"a": "SAY A"}


def test_a_file_that_holds_no_requests_says_which_line_is_wrong(batch: Batch, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("not json\n")
    with pytest.raises(RequestError, match="was not run: line 1:"):
        batch("run", file, "-o", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl.batch").exists()


def test_a_batch_is_submitted_listed_shown_and_its_results_printed(batch: Batch, tmp_path: Path, server: Any) -> None:
    made = batch("submit", requests(tmp_path / "in.jsonl", "a")).stdout.strip()
    with Client(server.url) as client:
        client.batches.wait(made, poll_seconds=0.01)
    assert [row["id"] for row in json.loads(batch("list", "--json").stdout)] == [made]
    assert made in batch("list").stdout
    assert json.loads(batch("show", made).stdout)["request_counts"] == {"total": 1, "completed": 1}
    assert json.loads(batch("results", made).stdout)["custom_id"] == "a"
    batch("results", made, "-o", tmp_path / "out.jsonl")
    assert contents(tmp_path / "out.jsonl") == {"a": "SAY A"}


def test_a_batch_is_cancelled_and_has_no_results_before_its_end(
    glm: Any, start_server: Any, scripted_engine: Any, glm_home: Path, tmp_path: Path
) -> None:
    engine = scripted_engine(hold_after=1)
    url = start_server(engine, database=LazyDatabase(StorageSettings(), glm_home)).url
    made = json.loads(glm("batch", "submit", str(requests(tmp_path / "in.jsonl", "a")), "--json", "--url", url).stdout)
    assert engine.holding.wait(20)
    with pytest.raises(RequestError, match="wait for its end"):
        glm("batch", "results", made["id"], "--url", url)
    assert "cancelling" in glm("batch", "cancel", made["id"], "--url", url).stderr
    assert engine.closed.wait(20)


def test_a_batch_that_is_not_there_is_named(batch: Batch) -> None:
    with pytest.raises(RecordNotFoundError, match="batch_none"):
        batch("show", "batch_none")
    assert "no batches yet" in batch("list").stderr
