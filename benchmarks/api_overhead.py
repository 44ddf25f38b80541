"""What the API costs: streamed completions over HTTP against the same requests given to the engine without HTTP.

Both sides have their engine in a process of its own with the same settings, and get the same prompts: `direct` through
`EngineProcess` from this process, `HTTP` from the load generator, which is this process too. The three share the
cores, so besides the ratio of the throughputs the processor time of each process is told: the server's is the API's,
the load generator's is the clients', who would have machines of their own.

    api_overhead.py [--clients 32]        128 in, 128 out
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm_crush.config import load_settings
from glm_crush.engine.process.engine_process import EngineProcess
from glm_crush.models.loader import load_model
from glm_crush.serving.local_model import serve_loaded_model
from glm_crush.types import SamplingParams
from harness import Spread, arguments, physical_cores, print_header
from load import LoadResult, Workload, random_prompts
from peers.paths import ROOT, model
from peers.servers import HttpServer, glm_server, running

FILE = "smollm2-q4_0.gguf"
TARGET_PERCENT = 3.0
PARTS = ("engine", "server", "callers")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Side:
    """One run: tokens a second, and the processor seconds of engine, server and load generator."""

    tokens_per_second: float
    wall: float
    tokens: int
    engine: float
    server: float
    callers: float

    def microseconds(self, seconds: float) -> float:
        """Of processor time a token."""
        return 1e6 * seconds / self.tokens


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def engine_of(server_pid: int) -> int:
    """The process of a server's engine: its child."""
    children = Path(f"/proc/{server_pid}/task/{server_pid}/children").read_text().split()
    if len(children) != 1:
        raise SystemExit(f"the server has {len(children)} children; its engine should be the only one")
    return int(children[0])


def over_http(server: HttpServer, workload: Workload) -> Side:
    """Play a workload over HTTP and account for the processor."""
    engine = engine_of(server.process.pid)
    pids = (engine, server.process.pid, os.getpid())
    before = [cpu_seconds(pid) for pid in pids]
    result: LoadResult = server(workload)
    used = [cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
    return Side(result.tokens_per_second, result.wall, result.output_tokens, *used)


def direct(engine: EngineProcess, workload: Workload) -> Side:
    """The same requests without HTTP: as many callers, each waiting for its reply."""
    assert engine.pid is not None
    before = cpu_seconds(engine.pid), cpu_seconds(os.getpid())
    start = time.perf_counter()
    asyncio.run(_callers(engine, workload))
    wall = time.perf_counter() - start
    tokens = workload.output_tokens * len(workload.prompts)
    used = cpu_seconds(engine.pid) - before[0], cpu_seconds(os.getpid()) - before[1]
    return Side(tokens / wall, wall, tokens, used[0], 0.0, used[1])


async def _callers(engine: EngineProcess, workload: Workload) -> None:
    todo = list(workload.prompts)[::-1]
    params = SamplingParams(temperature=0.0, max_tokens=workload.output_tokens, ignore_eos=True)

    async def caller() -> None:
        while todo:
            async for _ in engine.submit(uuid.uuid4().hex, todo.pop(), params):
                pass

    await asyncio.gather(*(caller() for _ in range(workload.clients)))


@contextmanager
def engine_alone() -> Iterator[EngineProcess]:
    """The engine's process that a server would have."""
    settings = load_settings(flags={"crush.weight_format": "q4"})
    loaded = load_model(model(FILE), cache_dir=ROOT / "packed", weight_format="q4")
    _, engine = serve_loaded_model("default", loaded, settings)
    assert isinstance(engine, EngineProcess)
    try:
        yield engine
    finally:
        engine.close()


def main() -> None:
    """Print the figure."""
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    print_header("S9: what the API costs, SmolLM2-135M 4-bit")

    def workload(number: int) -> Workload:
        prompts = random_prompts(2 * options.clients, 128, 9_000 + number)
        return Workload("128 in, 128 out", prompts, 128, options.clients)

    pairs: list[tuple[Side, Side]] = []
    with engine_alone() as engine, running(glm_server(model(FILE))) as servers:
        server = servers[0]
        assert isinstance(server, HttpServer)
        warm_up = Workload("warm-up", random_prompts(8, 128, 8_999), 16, 8)
        direct(engine, warm_up), over_http(server, warm_up)
        for number in range(options.rounds):
            # The same prompts on both sides: what a model writes decides how much of it is guessed ahead.
            if number % 2 == 0:
                pair = direct(engine, workload(number)), over_http(server, workload(number))
            else:
                pair = tuple(reversed((over_http(server, workload(number)), direct(engine, workload(number)))))
            pairs.append(pair)
    report(workload(0), pairs)


def report(workload: Workload, pairs: list[tuple[Side, Side]]) -> None:
    """Throughputs, their ratio, and where the processor's time went."""
    print(workload)
    for name, sides in (("direct", [alone for alone, _ in pairs]), ("HTTP", [http for _, http in pairs])):
        speed = Spread.of([side.tokens_per_second for side in sides])
        parts = [(part, Spread.of([each.microseconds(getattr(each, part)) for each in sides])) for part in PARTS]
        used = ", ".join(f"{part} {spread}" for part, spread in parts)
        print(f"  {name:<7} {speed} tok/s; microseconds of processor a token: {used}")
    lost = Spread.of([100 * (1 - http.tokens_per_second / alone.tokens_per_second) for alone, http in pairs])
    print(f"  throughput lost with the load generator on the same cores: {lost} %")
    share = Spread.of([100 * (h.server - d.callers) / (physical_cores() * h.wall) for d, h in pairs])
    verdict = "met" if share.median < TARGET_PERCENT else "NOT met"
    print(f"  the server's share of the processor beyond the direct callers': {share} %,")
    print(f"    target {TARGET_PERCENT} %: {verdict}")


if __name__ == "__main__":
    main()
