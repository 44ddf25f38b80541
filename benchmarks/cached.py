"""N8: answers from the cache over HTTP, with a key, limits and metrics on; alone and beside a saturated engine.

Callers on kept-alive connections ask the same greedy question again and again; only the first is computed. The load
generator has a process of its own and shares the cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from harness import Spread, arguments, print_header
from load import Workload, play, random_prompts
from peers.paths import model
from peers.servers import HttpServer, glm_server

SECONDS = 4.0
TARGET_RATE, TARGET_P99, TARGET_P99_BUSY = 2000.0, 25.0, 100.0
QUESTION = {"model": "default", "temperature": 0, "max_tokens": 32, "messages": [{"role": "user", "content": "Hello"}]}


def ask(server: HttpServer, method: str, path: str, key: str, body: object) -> dict[str, str]:
    """One JSON request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return dict(json.load(reply))


async def hammer(port: int, key: str, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and the milliseconds of each."""
    body = json.dumps(QUESTION).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            writer.write(request)
            reply = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not reply.startswith(b"http/1.1 200") or b"x-glm-cache: hit" not in reply:
                raise SystemExit(f"not a cached answer: {reply.decode(errors='replace')}")
            await reader.readexactly(int(reply.split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(1e3 * (time.perf_counter() - start))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(connections)))
    return len(times) / seconds, times


@contextlib.contextmanager
def saturated(port: int, key: str) -> Iterator[None]:
    """Eight clients that keep the engine busy, in a process of their own."""
    process = multiprocessing.get_context("spawn").Process(target=_saturate, args=(port, key), daemon=True)
    process.start()
    time.sleep(2.0)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _saturate(port: int, key: str) -> None:
    for number in range(1000):
        play("127.0.0.1", port, Workload("busy", random_prompts(16, 128, number), 128, 8), key=key)


def rounds(server: HttpServer, key: str, options: argparse.Namespace) -> tuple[Spread, Spread, Spread]:
    """Requests a second, median and 99th percentile of the milliseconds, over some rounds."""
    rates, medians, p99s = [], [], []
    for _ in range(options.rounds):
        rate, times = asyncio.run(hammer(server.port, key, options.connections, SECONDS))
        rates.append(rate)
        medians.append(statistics.median(times))
        p99s.append(statistics.quantiles(times, n=100)[98])
    return Spread.of(rates), Spread.of(medians), Spread.of(p99s)


def main() -> None:
    """Print both figures."""
    parser = arguments(__doc__)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    print_header("N8: cached answers over HTTP, SmolLM2-135M 4-bit")
    with tempfile.TemporaryDirectory() as home:
        # A home of its own: keys and kept answers of this machine's user stay as they are.
        os.environ |= {"GLM_STORAGE_URL": f"sqlite:///{home}/glm.db", "GLM_API_KEY": "operator"}
        server = glm_server(model("smollm2-q4_0.gguf"), keeps_answers=True)
        try:
            ask(server, "POST", "/admin/v1/applications", "operator", {"name": "benchmark"})
            limits = {"requests_per_minute": 10_000_000, "tokens_per_minute": 1_000_000_000, "concurrency": 1000}
            made = ask(server, "POST", "/admin/v1/keys", "operator", {"application": "benchmark", "limits": limits})
            key = made["key"]
            ask(server, "POST", "/v1/chat/completions", key, QUESTION)
            rate, median, p99 = rounds(server, key, options)
            met = rate.median >= TARGET_RATE and p99.median <= TARGET_P99
            print(f"idle engine   {rate} requests/s, p50 {median} ms, p99 {p99} ms")
            print(f"  target {TARGET_RATE:.0f}/s and p99 {TARGET_P99:.0f} ms: {'met' if met else 'NOT met'}")
            with saturated(server.port, key):
                rate, median, p99 = rounds(server, key, options)
            print(f"8 busy streams {rate} requests/s, p50 {median} ms, p99 {p99} ms")
            print(f"  target p99 {TARGET_P99_BUSY:.0f} ms: {'met' if p99.median <= TARGET_P99_BUSY else 'NOT met'}")
        finally:
            server.close()


if __name__ == "__main__":
    main()
