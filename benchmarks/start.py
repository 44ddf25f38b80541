"""N7: from the command to a ready server with a packed model, to its first token, and the memory it holds.

`glm serve` is started on a free port with SmolLM2-135M already packed; the clock runs from the spawn to the first
answer of /health and to the first token of a completion. Memory is what is resident then, in the server and its
children, without the mapped weight file and the KV cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from harness import Spread, arguments, print_header
from peers.engines import glm_bench
from peers.paths import llama_tool, model
from peers.servers import free_port

MAX_SECONDS = 1.0
MAX_BYTES = 150e6
PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that is ended afterwards."""
    # As for any user, the second start finds Python's compiled modules, whatever the shell of this run says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when `url` answers 200."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=5).read()
            return
        time.sleep(0.005)
    raise SystemExit(f"the server did not answer {url} (exit status {process.poll()})")


def complete(base: str) -> None:
    """Ask for one token."""
    body = json.dumps({"model": "default", "prompt": "Hello", "max_tokens": 1, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{base}/v1/completions", body, headers), timeout=60).read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"the completion failed: {error.code} {error.read().decode(errors='replace')}") from error


def process_tree(pid: int) -> list[int]:
    """A process and everything it started."""
    # A child belongs to the thread that started it.
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(grandchild for child in children for grandchild in process_tree(int(child)))]


def resident_beyond_model(pid: int) -> int:
    """Bytes resident (shared pages by share) in a process tree, without weight files and KV cache.

    The KV cache is the largest anonymous mapping of the process that has one; other processes hold none of 64 MiB.
    """
    total = 0
    for member in process_tree(pid):
        name, size, cache, cache_size = "", 0, 0, 64 << 20
        for line in Path(f"/proc/{member}/smaps").read_text().splitlines():
            first, *rest = line.split(maxsplit=5)
            if first == "Pss:" and not name.endswith((".glm", ".gguf")):
                resident = int(rest[0]) * 1024
                total += resident
                if not name and size > cache_size:
                    cache, cache_size = resident, size
            elif not first.endswith(":"):
                start, end = (int(address, 16) for address in first.split("-"))
                name, size = (rest[4] if len(rest) > 4 else ""), end - start
        total -= cache
    return total


def measure(command: list[str], port: int) -> tuple[float, float, int]:
    """Seconds to ready and to the first token, and resident bytes beyond weights and KV cache."""
    base = f"http://127.0.0.1:{port}"
    start = time.perf_counter()
    with server(command) as process:
        wait_until_ready(f"{base}/health", process)
        ready = time.perf_counter() - start
        complete(base)
        first_token = time.perf_counter() - start
        return ready, first_token, resident_beyond_model(process.pid)


def main() -> None:
    """Print ours, then llama-server in the same run."""
    options = arguments(__doc__).parse_args()
    print_header("N7: start and memory, SmolLM2-135M 4-bit")
    file = model("smollm2-q4_0.gguf")
    quick = ("--weight-format", "q4", "--prompt-tokens", "1", "--generate-tokens", "1", "--repeat", "1")
    bench = glm_bench(file, *quick)  # packs the model when it is new
    glm = str(Path(sys.executable).parent / "glm")
    serve = [glm, "serve", str(file), "--weight-format", "q4"]
    commands = {
        "glm serve": serve,
        "glm serve --engine in-process": [*serve, "--engine", "in-process"],
        "llama-server": [str(llama_tool("llama-server")), "-m", str(file), "-t", str(options.threads), "-c", "8192"],
    }
    samples: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            port = free_port()
            samples[name].append(measure([*command, "--port", str(port)], port))
    for name, rows in samples.items():
        ready, first_token, resident = (Spread.of(column) for column in zip(*rows, strict=True))
        print(f"{name:<30} ready {ready} s, first token {first_token} s, resident {resident.median / 1e6:.0f} MB")
    ready, first_token, resident = (Spread.of(column) for column in zip(*samples["glm serve"], strict=True))
    print(f"\nfirst token under {MAX_SECONDS} s: {'met' if first_token.median < MAX_SECONDS else 'NOT met'}")
    print(f"beyond weights and KV cache, server:       {resident.median / 1e6:.0f} MB")
    beyond = bench["peak_resident_bytes"] - bench["weight_bytes"] - bench["kv_cache_bytes"]
    print(f"beyond weights and KV cache, `glm bench`:  {beyond / 1e6:.0f} MB")
    print(f"under {MAX_BYTES / 1e6:.0f} MB: {'met' if max(beyond, resident.median) < MAX_BYTES else 'NOT met'}")


if __name__ == "__main__":
    main()
