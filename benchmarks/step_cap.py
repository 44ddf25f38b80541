"""The longest pause of running streams while a long prompt comes in, with the cap of a step on and off.

    step_cap.py [--rounds 3] [--streams 4] [--prompt-tokens 4000]

Streams are read over HTTP, a token an event. A prompt of so many fresh tokens comes when they run; the worst gap
between two tokens of any of them while it is computed is the figure, beside the time to the prompt's first token. The
first round of each server is its very first prompt: nothing has been measured then. `crush.max_step_seconds` is 150 ms
by default; "off" sets it to an hour, so that `crush.max_num_batched_tokens` alone bounds a step.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass, field

from harness import Spread, arguments, print_header
from peers.paths import model
from peers.servers import HttpServer, glm_server

LIMIT_SECONDS = 0.15
WARM_UP_TOKENS = 20
SERVERS = {"cap on": (), "cap off": ("crush.max_step_seconds=3600",)}


@dataclass
class Stream:
    """When each token of a running stream came."""

    times: list[float] = field(default_factory=list)


async def post(port: int, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a completion request; the reader stands behind the headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps({"model": "default", "temperature": 0, "ignore_eos": True, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    status = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in status.split(b"\r\n", 1)[0]:
        raise SystemExit(f"the server said {status!r}")
    return reader, writer


async def follow(port: int, rng: random.Random, stream: Stream, ready: asyncio.Event) -> None:
    """Read a stream until cancelled."""
    prompt = [rng.randrange(1000, 20_000) for _ in range(16)]
    reader, writer = await post(port, {"prompt": prompt, "max_tokens": 3000, "stream": True})
    try:
        while line := await reader.readline():
            if b'"text"' in line:
                stream.times.append(time.perf_counter())
                if len(stream.times) == WARM_UP_TOKENS:
                    ready.set()
    finally:
        writer.close()


async def one_round(port: int, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """The worst gap while the prompt was computed, and the seconds to its first token."""
    rng = random.Random(seed)
    streams = [Stream() for _ in range(options.streams)]
    events = [asyncio.Event() for _ in streams]
    readers = [asyncio.create_task(follow(port, rng, *pair)) for pair in zip(streams, events, strict=True)]
    await asyncio.gather(*(event.wait() for event in events))
    prompt = [rng.randrange(1000, 20_000) for _ in range(options.prompt_tokens)]
    begin = time.perf_counter()
    reader, writer = await post(port, {"prompt": prompt, "max_tokens": 1})
    await reader.read()
    end = time.perf_counter()
    writer.close()
    for task in readers:
        task.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    gaps = [
        after - before
        for stream in streams
        for before, after in itertools.pairwise(stream.times)
        if after >= begin and before <= end
    ]
    return max(gaps), end - begin


def measure(server: HttpServer, options: argparse.Namespace, seed: int) -> list[tuple[float, float]]:
    """Rounds against one server, the first its very first prompt."""
    return [asyncio.run(one_round(server.port, options, seed + number)) for number in range(options.rounds)]


def main() -> None:
    """Print the worst gap of each side, and whether the cap was kept to."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    options = parser.parse_args()
    print_header(f"Step cap: {options.streams} streams beside a prompt of {options.prompt_tokens}, SmolLM2-135M 4-bit")
    for name, settings in SERVERS.items():
        flags = [word for setting in settings for word in ("--set", setting)]
        server = glm_server(model("smollm2-q4_0.gguf"), "--speculation", "off", before=flags)
        try:
            rounds = measure(server, options, seed=len(name))
        finally:
            server.close()
        first, *rest = [1e3 * gap for gap, _ in rounds]
        print(f"{name:<8} worst gap {Spread.of(rest or [first])} ms, first prompt of the server {first:.0f} ms")
        print(f"{'':<8} prompt's first token after {Spread.of([seconds for _, seconds in rounds])} s")
        if not settings:
            worst = max(gap for gap, _ in rounds)
            met = worst <= LIMIT_SECONDS
            print(
                f"{'':<8} target {1e3 * LIMIT_SECONDS:.0f} ms in every round: {'met' if met else 'NOT met'}", flush=True
            )


if __name__ == "__main__":
    main()
