"""A soak of the served engine: callers that cancel, ask for nonsense and see the engine killed, for minutes on end.

    soak.py [--minutes 20] [--clients 16] [--kill-seconds 60]

Every request must end: with a whole reply, an error event, or a status. At the end the server must be idle with all
blocks free (its integrity check ran), and its memory must not have grown by more than 5 % since the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import sys
import time
import urllib.request
from pathlib import Path

from harness import print_header
from peers.paths import model
from peers.servers import HttpServer, glm_server
from start import process_tree

PATIENCE_SECONDS = 120.0
BAD_BODIES = (
    b"{",
    b'{"prompt": 1e999}',
    b'{"prompt": [999999999]}',
    b'{"prompt": "x", "temperature": -1}',
    b'{"prompt": "x", "max_tokens": 10000000}',
    b'{"messages": []}',
)


class Soak:
    """Callers, a killer and a watcher of memory around one server."""

    def __init__(self, server: HttpServer, seconds: float, kill_seconds: float, seed: int) -> None:
        self.server = server
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.seconds = seconds
        self.kill_seconds = kill_seconds
        self.random = random.Random(seed)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.memory: list[tuple[float, int]] = []
        self.kills = 0

    async def run(self, clients: int) -> None:
        """Until the time is over and every caller has its last answer."""
        watcher = asyncio.create_task(self._watch())
        killer = asyncio.create_task(self._kill())
        await asyncio.gather(*(self._caller() for _ in range(clients)))
        killer.cancel()
        await watcher

    async def _caller(self) -> None:
        while time.monotonic() < self.end:
            dice = self.random.random()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    kind = await (self._bad() if dice < 0.1 else self._good(cancel=dice < 0.3))
            except TimeoutError:
                kind = "HUNG"
                gauges = await asyncio.to_thread(gauges_of, self.server.port)
                print(
                    f"HUNG at {time.monotonic() - self.begin:.0f} s of the soak; the server then: {gauges}", flush=True
                )
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                kind = f"LOST ({type(error).__name__})"
            self.outcomes[kind] += 1

    async def _bad(self) -> str:
        status, _ = await self._post(self.random.choice(BAD_BODIES), read_all=True)
        return f"bad request refused with {status}"

    async def _good(self, *, cancel: bool) -> str:
        length = self.random.choice((8, 64, 400))
        prompt = [self.random.randrange(10, 40_000) for _ in range(length)]
        if self.random.random() < 0.5:
            prompt = [*range(100, 400), *prompt]
        body = {"prompt": prompt, "max_tokens": self.random.choice((1, 16, 128)), "ignore_eos": True, "stream": True}
        status, text = await self._post(json.dumps(body).encode(), read_all=not cancel)
        if status != 200:
            return f"status {status}"
        if cancel:
            return "cancelled"
        if b"[DONE]" in text and b'"error"' not in text:
            return "whole reply"
        return "error event" if b'"error"' in text else "CUT OFF"

    async def _post(self, body: bytes, *, read_all: bool) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: soak\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            )
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            status = int((await reader.readuntil(b"\r\n\r\n")).split(None, 2)[1])
            text = await reader.read() if read_all else await reader.read(self.random.randrange(1, 2000))
            return status, text
        finally:
            writer.close()

    async def _kill(self) -> None:
        while self.kill_seconds:
            await asyncio.sleep(self.kill_seconds)
            children = process_tree(self.server.process.pid)[1:]
            if children:
                os.kill(children[-1], signal.SIGKILL)
                self.kills += 1

    async def _watch(self) -> None:
        while time.monotonic() < self.end:
            await asyncio.sleep(5)
            self.memory.append((time.monotonic() - self.begin, resident(self.server.process.pid)))


def resident(pid: int) -> int:
    """Bytes resident in a process and its children, shared pages by share."""
    total = 0
    for member in process_tree(pid):
        path = Path(f"/proc/{member}/smaps_rollup")
        lines = path.read_text().splitlines() if path.exists() else []
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def gauges_of(port: int) -> dict[str, float]:
    """Requests that the server runs and holds back: zero when nothing runs."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    wanted = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)}


def main() -> int:
    """Exit status 1 if a request was left without an answer, blocks leaked or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--kill-seconds", type=float, default=60, help="kill the engine's process this often; 0 = never"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print_header(f"soak: {options.minutes:g} minutes, {options.clients} clients")
    server = glm_server(model("smollm2-q4_0.gguf"))
    try:
        soak = Soak(server, options.minutes * 60, options.kill_seconds, options.seed)
        asyncio.run(soak.run(options.clients))
        time.sleep(3)  # the idle check of the engine's books runs after a second
        gauges = gauges_of(server.port)
        alive = server.process.poll() is None
    finally:
        server.close()
    for kind, count in soak.outcomes.most_common():
        print(f"{count:8} {kind}")
    early = [size for at, size in soak.memory if at <= max(30.0, soak.seconds / 10)]
    late = [size for at, size in soak.memory if at >= 0.9 * soak.seconds]
    growth = max(late) / max(early) - 1
    print(
        f"engine killed {soak.kills} times; memory {max(early) / 1e6:.0f} -> {max(late) / 1e6:.0f} MB ({growth:+.1%})"
    )
    print(f"when idle: {gauges}")
    failed = [kind for kind in soak.outcomes if kind.isupper() or kind.startswith(("LOST", "HUNG", "CUT"))]
    bad = failed or growth > 0.05 or not alive or any(gauges.values())
    print("NOT met: " + ", ".join(failed or ["memory, or requests left over"]) if bad else "met")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
