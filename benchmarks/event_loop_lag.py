"""How late the server's event loop is at full load, by its own metric `glm_event_loop_lag_seconds`.

The load, from processes of their own: 32 clients with streams; then the same beside callers with long prompts as text,
large bodies, cached answers and stored responses, which are what could hold the loop up.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from harness import arguments, print_header
from load import Workload, play, random_prompts
from peers.paths import model
from peers.servers import HttpServer, glm_server, running

FILE = "smollm2-q4_0.gguf"
TARGET_MILLISECONDS, SHARE = 50.0, 0.99
SECONDS = 15.0
WORDS = "The quick brown fox jumps over the lazy dog. "


def streams(port: int) -> None:
    """32 clients that never stop."""
    seed = time.time_ns() % 2**31  # prompts that no answer is kept for
    for number in range(1000):
        play("127.0.0.1", port, Workload("busy", random_prompts(64, 128, seed + number), 128, 32))


def mixture(port: int) -> None:
    """Requests that cost the server more than the engine, one after the other."""
    long_text = {"model": "default", "prompt": WORDS * 700, "max_tokens": 1}
    large_body = {"model": "default", "messages": [{"role": "user", "content": WORDS * 20_000}], "max_tokens": 1}
    kept = {"model": "default", "prompt": "One two three", "max_tokens": 4, "temperature": 0}
    stored = {"model": "default", "input": "One two three", "max_output_tokens": 4}
    paths = {"/v1/completions": long_text, "/v1/chat/completions": large_body, "/v1/responses": stored}
    while True:
        for path, body in paths.items():
            _post(port, path, body)
        for _ in range(20):
            _post(port, "/v1/completions", kept)


def _post(port: int, path: str, body: object) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    try:
        urllib.request.urlopen(request, timeout=120).read()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise SystemExit(f"{path}: {error.code}") from error


@contextmanager
def loaded(port: int, *jobs: object) -> Iterator[None]:
    """Each job in a process of its own."""
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [context.Process(target=job, args=(port,), daemon=True) for job in jobs]
    for process in processes:
        process.start()
    time.sleep(3.0)
    try:
        yield
        if not all(process.is_alive() for process in processes):
            raise SystemExit("the load ended before its time")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def histogram(port: int) -> dict[float, float]:
    """Timers fired, by upper bound of their lag in milliseconds, cumulative."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    rows = re.findall(r'^glm_event_loop_lag_seconds_bucket{le="([^"]+)"} (\S+)', text, re.MULTILINE)
    return {1e3 * float(bound): float(count) for bound, count in rows}


def measure(server: HttpServer, rounds: int) -> None:
    """The lag over some seconds, round by round."""
    for _ in range(rounds):
        before = histogram(server.port)
        asyncio.run(asyncio.sleep(SECONDS))
        fired = {bound: count - before[bound] for bound, count in histogram(server.port).items()}
        total = fired[float("inf")]
        p50, p99 = (next(bound for bound, count in fired.items() if count >= share * total) for share in (0.5, SHARE))
        over = total - fired[TARGET_MILLISECONDS]
        verdict = "met" if p99 <= TARGET_MILLISECONDS else "NOT met"
        print(
            f"  {total:.0f} timers: p50 <= {p50:g} ms, p99 <= {p99:g} ms, {over:.0f} over {TARGET_MILLISECONDS:g} ms; "
            f"target p99 {TARGET_MILLISECONDS:g} ms: {verdict}",
            flush=True,
        )


def main() -> None:
    """Print the figure."""
    options = arguments(__doc__, rounds=2).parse_args()
    print_header("S9: lag of the event loop at full load, SmolLM2-135M 4-bit")
    with tempfile.TemporaryDirectory() as home:
        os.environ["GLM_STORAGE_URL"] = f"sqlite:///{home}/glm.db"
        with running(glm_server(model(FILE), keeps_answers=True)) as (server,):
            assert isinstance(server, HttpServer)
            print("32 streams")
            with loaded(server.port, streams):
                measure(server, options.rounds)
            print("32 streams beside long texts, bodies of a megabyte, cached answers, stored responses")
            with loaded(server.port, streams, mixture):
                measure(server, options.rounds)


if __name__ == "__main__":
    main()
