"""What scheduling costs beside the steps it plans: planning, prefix lookup, and the memory of a long queue.

    scheduling_cost.py            SmolLM2-135M 4-bit; no peer: each figure is a share of our own step, or a bound

A scripted executor takes no time, so that a step of the engine over it is what Python does; the same load on the real
model is the step it is compared with.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
import uuid
from array import array
from pathlib import Path

import numpy as np

from glm_crush.config import CrushSettings
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.build import build_engine
from glm_crush.engine.engine import Engine
from glm_crush.engine.fair_share import FairShare
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import Scheduler, SchedulerLimits
from glm_crush.models.loader import load_model
from glm_crush.types import SamplingParams
from harness import arguments, print_header
from peers.paths import model

RUNNING = 64
QUEUED = 10_000
PROMPT_TOKENS = 512
LOOKUP_TOKENS = 32 * 1024


def running_engine(file: Path, threads: int) -> Engine:
    """An engine in which `RUNNING` requests of several tenants decode."""
    settings = CrushSettings(
        threads=threads, max_num_seqs=RUNNING, kv_cache_tokens=64 * 1024, speculation="off", weight_format="q4"
    )
    home = Path.home() / ".glm-crush" / "packed"
    engine = build_engine(load_model(file, cache_dir=home, weight_format="q4"), settings).engine
    rng = np.random.default_rng(0)
    for number in range(RUNNING):
        prompt = rng.integers(10, 40_000, 128).tolist()
        params = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
        engine.add_request(prompt, params, tenant=f"tenant{number % 4}")
    while any(request.num_output_tokens == 0 for request in (*engine.scheduler.running, *engine.scheduler.waiting)):
        engine.step()
    return engine


def step_shares(file: Path, threads: int, steps: int) -> tuple[float, float]:
    """Median seconds of `Scheduler.schedule` and `update`, and of a whole step, with one token for each request."""
    engine = running_engine(file, threads)
    scheduler, planning, whole = engine.scheduler, [], []
    schedule, update = scheduler.schedule, scheduler.update
    spent = 0.0

    def timed(function):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal spent
            started = time.perf_counter()
            result = function(*arguments, **{**options, "max_decode_steps": 1} if function is schedule else options)
            spent += time.perf_counter() - started
            return result

        return call

    scheduler.schedule, scheduler.update = timed(schedule), timed(update)  # type: ignore[method-assign]
    for _ in range(steps):
        spent, started = 0.0, time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - started)
        planning.append(spent)
    engine.abort_all()
    return statistics.median(planning), statistics.median(whole)


def lookup_seconds() -> float:
    """Finding a prompt of `LOOKUP_TOKENS` in the prefix cache, all of it cached."""
    pool = BlockPool(LOOKUP_TOKENS // 16 + 16, 16)
    limits = SchedulerLimits(max_context=LOOKUP_TOKENS * 2, token_budget=LOOKUP_TOKENS, max_num_seqs=4)
    scheduler = Scheduler(limits, pool, PrefixCache(pool))
    prompt = np.random.default_rng(1).integers(0, 40_000, LOOKUP_TOKENS).tolist()
    samples = []
    for number in range(6):
        request = Request(f"{number}", prompt, SamplingParams(), max_tokens=1)
        scheduler.add([request])
        started = time.perf_counter()
        batch = scheduler.schedule()
        samples.append(time.perf_counter() - started)
        scheduler.update(batch)
        request.token_ids.append(1)
        scheduler.finish(request, "length")
    return statistics.median(samples[1:])


def queue_bytes() -> tuple[float, float]:
    """What `QUEUED` requests take in the engine, and the seconds to plan a step beside them."""
    limits = SchedulerLimits(max_context=8192, max_num_seqs=1, max_queue_size=QUEUED)
    scheduler = Scheduler(limits, BlockPool(1024, 16), fair_share=FairShare())
    prompt = array("i", range(PROMPT_TOKENS))
    gc.collect()
    before = resident()
    for number in range(QUEUED + 1):
        params = SamplingParams(max_tokens=128, seed=number)
        scheduler.add([Request(uuid.uuid4().hex, prompt, params, max_tokens=128, tenant=f"t{number % 100}")])
        if number == 0:
            scheduler.update(scheduler.schedule())
            scheduler.running[0].token_ids.append(1)
    taken = resident() - before
    samples = []
    for _ in range(20):
        started = time.perf_counter()
        scheduler.update(scheduler.schedule())
        samples.append(time.perf_counter() - started)
        scheduler.running[0].token_ids.append(1)
    return taken, statistics.median(samples)


def resident() -> float:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print each figure beside its bound."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    print_header("Cost of scheduling")
    taken, beside_queue = queue_bytes()
    print(f"{QUEUED} queued requests of {PROMPT_TOKENS} tokens: {taken / 1e6:.0f} MB {met(taken < 100e6)} (100 MB)")
    print(f"planning a step beside them: {beside_queue * 1e6:.0f} us")
    lookup = lookup_seconds()
    print(f"lookup of {LOOKUP_TOKENS} tokens and a plan: {lookup * 1e3:.2f} ms {met(lookup < 0.001)} (1 ms)")
    planning, whole = step_shares(model("smollm2-q4_0.gguf"), options.threads, options.steps)
    share = planning / whole
    print(
        f"{RUNNING} running requests: planning {planning * 1e6:.0f} us of a step of {whole * 1e3:.1f} ms, "
        f"{100 * share:.1f} % {met(share < 0.05)} (5 %)"
    )


def met(is_met: bool) -> str:
    """For the table."""
    return "met" if is_met else "NOT met"


if __name__ == "__main__":
    main()
