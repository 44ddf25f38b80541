"""The worked example and the numbers of docs/design/scheduler.md are what the scheduler does."""

from __future__ import annotations

from glm_crush.config import CrushSettings
from glm_crush.engine import fair_share, step_budget
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.fair_share import FairShare
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import Scheduler, SchedulerLimits
from glm_crush.types import SamplingParams
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "design" / "scheduler.md").read_text()


def test_the_turns_and_counters_of_the_example_are_what_the_scheduler_does() -> None:
    shares = FairShare()
    scheduler = Scheduler(SchedulerLimits(max_context=64, max_num_seqs=1), BlockPool(8, 4), fair_share=shares)
    for name in ("a1", "a2", "a3", "a4", "b1", "b2"):
        scheduler.add([Request(name, range(4), SamplingParams(), max_tokens=4, tenant=name[0])])
    rows = []
    while scheduler.has_unfinished:
        before = dict(shares._counters)
        batch = scheduler.schedule()
        [part] = batch.requests
        if part.start == 0:
            rows.append(f"| {part.request.request_id} | {before['a']:g} | {before['b']:g} |")
        scheduler.update(batch)
        part.request.token_ids.append(0)
        if part.request.num_output_tokens == 4:
            scheduler.finish(part.request, "length")
    table = PAGE.split("|---|---|---|---|\n")[1].split("\n\n")[0]
    assert [row.rsplit("|", 2)[0] + "|" for row in table.splitlines()] == rows


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert fair_share._DRAWN_TOKEN_COST == 2
    assert CrushSettings().max_step_seconds == 0.15
    assert step_budget._SAFETY == 0.55
    assert (step_budget._MOST_GROWTH, step_budget._SMALLEST_CHUNK, step_budget._FIRST_CHUNK) == (2, 16, 64)
