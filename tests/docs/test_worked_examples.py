"""The worked examples of the design pages are replayed. (The one of the kernels is code in the page itself.)"""

from __future__ import annotations

import numpy as np

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.build import _MAX_DECODE_STEPS
from glm_crush.engine.cache_plan import _MIN_DEFAULT_TOKENS
from glm_crush.engine.memory_plan import BLOCK_SIZE
from glm_crush.engine.pacing import DecodePacer
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from glm_crush.kernels.reference_math import to_block_float
from glm_crush.types import SamplingParams
from tests.docs.blocks import ROOT

ENGINE = (ROOT / "docs" / "design" / "engine.md").read_text()
KERNELS = (ROOT / "docs" / "design" / "kernels.md").read_text()


def replay() -> list[str]:
    """The rows of the table in the engine's page, from the scheduler itself."""
    pool = BlockPool(6, 4)
    scheduler = Scheduler(SchedulerLimits(max_context=64, max_num_seqs=4, token_budget=8), pool)
    requests = [Request(name, range(n), SamplingParams(), max_tokens=m) for name, n, m in (("A", 6, 7), ("B", 10, 4))]
    for request in requests:
        scheduler.add([request])
    rows = []
    while scheduler.has_unfinished:
        batch = scheduler.schedule()
        cells = [computed(request, batch) for request in requests]
        cells += [" ".join(map(str, request.block_table)) for request in requests]
        rows.append("| " + " | ".join([str(len(rows) + 1), *cells, str(pool.num_free)]) + " |")
        scheduler.update(batch)
        for scheduled in batch.requests:
            if scheduled.samples:
                scheduled.request.token_ids.append(0)
                if scheduled.request.num_output_tokens == scheduled.request.max_tokens:
                    scheduler.finish(scheduled.request, "length")
        scheduler.check_integrity()
    return rows


def computed(request: Request, batch: ScheduledBatch) -> str:
    if request in batch.preempted:
        return "preempted"
    for part in batch.requests:
        if part.request is request:
            last = part.start + part.num_tokens - 1
            span = str(last) if part.num_tokens == 1 else f"{part.start}-{last}"
            return span + (" *" if part.samples else "")
    return ""


def test_the_steps_and_blocks_of_the_engine_page_are_what_the_scheduler_does() -> None:
    table = ENGINE.split("## Worked example")[1].split("\n|---|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert [" ".join(row.split()) for row in replay()] == table.splitlines()


def test_the_numbers_in_the_engine_page_are_those_of_the_code() -> None:
    text = " ".join(ENGINE.split())
    assert f"blocks of {BLOCK_SIZE} tokens" in text
    assert f"up to {_MAX_DECODE_STEPS} tokens for each" in text
    assert f"at least {_MIN_DEFAULT_TOKENS:,} tokens" in text
    pacer = DecodePacer(max_steps=100)
    pacer.record(1, 0.001)
    assert f"fit into about {pacer.num_steps} ms" in text


def test_with_one_scale_per_row_small_groups_would_lose_their_values() -> None:
    """The kernels page says 6, -3 and 0 for what the exponent keeps as 102, -51 and 3."""
    steps = [round(x * 127 / 1.984375) for x in (0.1, -0.05, 0.003)]
    assert "columns 32 to 34 would be {}, {} and {}".format(*steps) in " ".join(KERNELS.split())


def test_the_exponent_of_the_kernels_page_is_added_as_it_says() -> None:
    scale, power, one, product = np.array([0.25, 2**11, 1, 512], np.float32).view(np.int32).tolist()
    assert scale + power - one == product
    assert f"{scale:x}      {power:x}    {one:x}    ->  {product:x}" in KERNELS
    assert to_block_float(np.full((1, 32), 1.984375, np.float32)).factor.tolist() == [[2.0**15]]
