"""N11: the share of requests that are answered while the engine is killed again and again under load.

    availability.py [--seconds 60] [--kill-seconds 5] [--clients 8] [--stream-share 0.5] [--resume]

Clients ask for replies of fixed length, some as a stream and some whole, and do not try again. A request is answered
when its reply is complete; a stream that ends with an error event, a 503 and a connection that breaks are not. One
that says nothing for a minute would be a client that hangs: there must be none.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

from harness import arguments, print_header
from peers.paths import model
from start import free_port, process_tree, server, wait_until_ready

PATIENCE_SECONDS = 60.0


@dataclass
class Outcomes:
    """What became of the requests, and how long each took."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    kills: int = 0
    recoveries: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of complete replies."""
        total = sum(self.counts.values())
        return sum(count for name, count in self.counts.items() if name.endswith("complete")) / total


async def ask(port: int, rng: random.Random, output_tokens: int, stream: bool) -> str:
    """One request over a connection of its own; what became of it."""
    kind = "stream" if stream else "whole"
    prompt = [rng.randrange(1000, 20_000) for _ in range(32)]
    wish = {"prompt": prompt, "max_tokens": output_tokens, "temperature": 0, "ignore_eos": True, "stream": stream}
    body = json.dumps({"model": "default", **wish}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(PATIENCE_SECONDS):
            reply = await reader.read(-1)
    except TimeoutError:
        return f"{kind} hangs"
    except OSError:
        return f"{kind} broken"
    finally:
        writer.close()
    if b" 200 " not in reply[:20]:
        return f"{kind} {reply[9:12].decode()}"
    whole = b"[DONE]" in reply if stream else b'"finish_reason":"length"' in reply
    return f"{kind} complete" if whole else f"{kind} error event"


async def client(port: int, until: float, seed: int, options: object, outcomes: Outcomes) -> None:
    """Ask again and again."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        outcome = await ask(port, rng, options.output_tokens, rng.random() < options.stream_share)  # type: ignore[attr-defined]
        outcomes.counts[outcome] += 1


async def killer(server_pid: int, port: int, seconds: float, outcomes: Outcomes) -> None:
    """Kill the engine every so often, and time how long the server is not ready."""
    while True:
        await asyncio.sleep(seconds)
        children = process_tree(server_pid)[1:]
        if not children:
            continue
        os.kill(children[0], signal.SIGKILL)
        outcomes.kills += 1
        killed = time.monotonic()
        await asyncio.sleep(0.05)
        while not await is_ready(port):
            await asyncio.sleep(0.02)
        outcomes.recoveries.append(time.monotonic() - killed)


async def is_ready(port: int) -> bool:
    """What /ready says."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        reply = await reader.read(-1)
        writer.close()
        return b" 200 " in reply[:20]
    return False


async def play(pid: int, port: int, options: object) -> Outcomes:
    """Load and kills for the given time."""
    outcomes = Outcomes()
    until = time.monotonic() + options.seconds  # type: ignore[attr-defined]
    killing = asyncio.create_task(killer(pid, port, options.kill_seconds, outcomes))  # type: ignore[attr-defined]
    clients = (client(port, until, seed, options, outcomes) for seed in range(options.clients))  # type: ignore[attr-defined]
    await asyncio.gather(*clients)
    killing.cancel()
    return outcomes


def main() -> None:
    """Print the share answered, by kind, and how long the server was not ready."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kill-seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--stream-share", type=float, default=0.5, help="of requests that are streamed")
    parser.add_argument("--resume", action="store_true", help="api.resume_streams = true")
    options = parser.parse_args()
    print_header("N11: availability while the engine is killed, SmolLM2-135M 4-bit")
    port = free_port()
    settings = ["--set", "api.engine_restarts_per_minute=1000", "--set", f"api.resume_streams={options.resume}"]
    command = [sys.executable, "-c", "from glm_crush.cli.main import main; main()", *settings]
    command += ["serve", str(model("smollm2-q4_0.gguf")), "--weight-format", "q4", "--port", str(port)]
    with server(command) as process:
        wait_until_ready(f"http://127.0.0.1:{port}/ready", process)
        outcomes = asyncio.run(play(process.pid, port, options))
    total = sum(outcomes.counts.values())
    print(f"{total} requests in {options.seconds:.0f} s, engine killed {outcomes.kills} times")
    for name, count in sorted(outcomes.counts.items()):
        print(f"  {name:<22} {count}")
    if outcomes.recoveries:
        recoveries = sorted(outcomes.recoveries)
        print(f"not ready for {recoveries[len(recoveries) // 2]:.2f} s (median), {recoveries[-1]:.2f} s (worst) a kill")
    hangs = sum(count for name, count in outcomes.counts.items() if name.endswith("hangs"))
    print(f"answered {100 * outcomes.share:.2f} %; clients that hang: {hangs}")


if __name__ == "__main__":
    main()
