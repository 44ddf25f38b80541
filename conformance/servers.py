"""The servers under test, each in a process of its own with a fresh home.

The main one has the default model and MiniLM from the user's store, and a tiny random reranker. Another has a tiny
random GLM: it knows tools and reasoning, which the default model does not. A third asks for keys.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files
from tests.serving.tiny_models import tiny_glm

__all__ = ["ADMIN_KEY", "EMBEDDING_MODEL", "MODEL", "RERANKER", "TINY_GLM", "Servers", "running_servers"]

MODEL = "smollm2:135m"
EMBEDDING_MODEL = "minilm"
RERANKER = "tiny-reranker"
TINY_GLM = "tiny-glm"
ADMIN_KEY = "operator"
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Servers:
    """Where they listen: the main server and its gRPC, the one with the tiny GLM, and the one that asks for keys."""

    url: str
    grpc: str
    glm_url: str
    keyed_url: str


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    """All of them; they are stopped in order at the end, and must say so with status 0."""
    with tempfile.TemporaryDirectory(prefix="glm-conformance-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        home = _home(folder / "home")
        classifier = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "relevant"}}
        reranker = encoder_checkpoint("bert", folder / "reranker", max_position_embeddings=512, **classifier)
        reranker = reranker.rename(folder / RERANKER)
        grpc_port = _free_port()
        url = stack.enter_context(
            _server(home, MODEL, "--embedding-model", EMBEDDING_MODEL, "--reranker", reranker,
                    "--grpc-port", str(grpc_port))
        )  # fmt: skip
        glm = tiny_glm("glm4_moe_lite", folder)
        glm_url = stack.enter_context(_server(folder / "glm-home", glm, "--name", TINY_GLM, "--threads", "1"))
        tiny = tiny_checkpoint("llama", folder, max_position_embeddings=2048)
        keyed_url = stack.enter_context(
            _server(folder / "keyed-home", tiny, "--name", "tiny", "--threads", "1", "--api-key", ADMIN_KEY,
                    "--embedding-model", _sentence_encoder(folder), "--reranker", reranker)
        )  # fmt: skip
        yield Servers(url, f"127.0.0.1:{grpc_port}", glm_url, keyed_url)


def _sentence_encoder(folder: Path) -> Path:
    """A tiny random embedding model."""
    made = encoder_checkpoint("bert", folder / "encoder", sentence=sentence_files(), max_position_embeddings=512)
    return made.rename(folder / "tiny-encoder")


def _home(home: Path) -> Path:
    """A fresh home whose models are links to the user's store: nothing of the user's is written."""
    home.mkdir(parents=True)
    store = Path(os.environ.get("GLM_HOME", Path.home() / ".glm-crush"))
    for model in (MODEL, EMBEDDING_MODEL):
        _glm("pull", model)
    (home / "models").symlink_to(store / "models")
    (home / "packed").symlink_to(store / "packed")
    return home


@contextlib.contextmanager
def _server(home: Path, model: str | Path, *options: str | Path) -> Iterator[str]:
    command = [_command(), "serve", model, "--port", "0", *options]
    environment = os.environ | {"GLM_HOME": str(home)}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("w+") as log:
        process = subprocess.Popen(list(map(str, command)), stderr=log, stdout=log, env=environment)
        try:
            yield _url_in(Path(log.name), process)
            process.terminate()
            if process.wait(timeout=_STOP_SECONDS) != 0:
                raise SystemExit(f"the server ended with status {process.returncode}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _url_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address in the banner, once it is written."""
    while process.poll() is None:
        found = re.search(r"curl (http://\S+?)/v1/", log.read_text())
        if found:
            return found[1]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    raise SystemExit(f"glm serve did not start:\n{log.read_text()[-2000:]}")


def _glm(*arguments: str) -> None:
    subprocess.run([_command(), *arguments], check=True, stdout=subprocess.DEVNULL)


def _command() -> str:
    return str(Path(sys.executable).with_name("glm"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
