"""Servers under test: each is started once, loaded in turn with the others, and stopped at the end.

llama-server gets a slot for every client and flash attention. OpenVINO has no server: its continuous-batching
pipeline runs in a process of its own and is fed directly, without HTTP. vLLM's CPU build needs `setup.py vllm`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from load import LoadResult, Workload, play
from peers.paths import VENV, VLLM, llama_tool, model

PATIENCE_SECONDS = 400.0


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    """Return when a process has written a line with these words to standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise SystemExit(f"{process.args} ended with status {process.wait()}")


class HttpServer:
    """A server process that answers completions on a port."""

    def __init__(self, name: str, command: list[str | Path], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.port = free_port()
        everything = [*map(str, command), "--port", str(self.port)]
        self.process = subprocess.Popen(
            everything, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | (environment or {})
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            time.sleep(0.02)
        raise SystemExit(f"{' '.join(everything)} did not become ready (exit status {self.process.poll()})")

    def __call__(self, workload: Workload) -> LoadResult:
        """Play a workload over HTTP."""
        return play("127.0.0.1", self.port, workload)

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(timeout=60)


class OpenVinoPipeline:
    """OpenVINO GenAI's continuous batching in a process, fed over a pipe."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.name = f"OpenVINO {folder.name.removeprefix('ov-')}, in process"
        script = Path(__file__).with_name("openvino_batching.py")
        command = [str(VENV / "bin" / "python"), str(script), str(folder), "--threads", str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def __call__(self, workload: Workload) -> LoadResult:
        """Play a workload inside the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {
            "prompts": [list(prompt) for prompt in workload.prompts],
            "output_tokens": workload.output_tokens,
            "clients": workload.clients,
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return LoadResult(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(timeout=60)


Server = HttpServer | OpenVinoPipeline


def glm_server(
    file: Path, *options: str, weight_format: str = "q4", keeps_answers: bool = False, before: Sequence[str] = ()
) -> HttpServer:
    """This project's server; without its response cache unless that is what is measured.

    `options` stand behind `serve`, those of `before` in front of it.
    """
    glm = Path(sys.executable).parent / "glm"
    command = [glm, *before, "serve", file, "--weight-format", weight_format, *options]
    return HttpServer(f"glm-crush {weight_format}", command, {"GLM_CACHE_ENABLED": str(keeps_answers).lower()})


def llama_server(file: Path, threads: int, clients: int, tokens_per_client: int) -> HttpServer:
    """llama-server with a slot for each client."""
    context = clients * (tokens_per_client + 64)
    slots = ("-c", str(context), "--parallel", str(clients), "-fa", "on")
    quant = file.stem.rsplit("-", 1)[-1]
    return HttpServer(f"llama-server {quant}", [llama_tool("llama-server"), "-m", file, "-t", str(threads), *slots])


def vllm_server(threads: int) -> HttpServer | None:
    """The CPU build of vLLM with SmolLM2 in bf16; None where it is not installed."""
    if not (VLLM / "bin" / "python").exists():
        return None
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "all"}
    module = ("-m", "vllm.entrypoints.openai.api_server", "--model", model("smollm2-hf"), "--dtype", "bfloat16")
    names = ("--served-model-name", "default", "--max-model-len", "2048")
    return HttpServer("vLLM CPU bf16", [VLLM / "bin" / "python", *module, *names], environment)


@contextlib.contextmanager
def running(*servers: Server | None) -> Iterator[list[Server]]:
    """The servers that are there, stopped at the end."""
    started = [server for server in servers if server is not None]
    try:
        yield started
    finally:
        for server in started:
            server.close()
