"""The worked example and the numbers of docs/design/prefix-cache.md are what the scheduler does."""

from __future__ import annotations

import string
from dataclasses import asdict

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.memory_plan import BLOCK_SIZE
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.request import Request
from glm_crush.engine.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from glm_crush.types import SamplingParams
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "design" / "prefix-cache.md").read_text()
LETTERS = string.ascii_letters
# Name, prompt, reply, and the step before which it arrives.
CALLS = (
    ("A", "abcdefghij", "kl", 1),
    ("B", "abcdefghmn", "op", 1),
    ("C", "abcdefghij", "kl", 4),
    ("D", "abcdxyzwv", "q", 6),
    ("E", "ABCDEFGHIJKLMNOP", "Q", 7),
    ("F", "abcdefghmn", "op", 8),
)


class Replay:
    """Rows of the table, step by step."""

    def __init__(self) -> None:
        self.pool = BlockPool(6, 4)
        self.scheduler = Scheduler(
            SchedulerLimits(max_context=64, max_num_seqs=4, token_budget=16), self.pool, PrefixCache(self.pool)
        )
        self.replies = {name: reply for name, _, reply, _ in CALLS}
        self.requests: list[Request] = []

    def rows(self) -> list[str]:
        rows = []
        for number in range(1, 10):
            for name, prompt, reply, step in CALLS:
                if step == number:
                    tokens = [LETTERS.index(letter) for letter in prompt]
                    self.requests.append(Request(name, tokens, SamplingParams(), max_tokens=len(reply)))
                    self.scheduler.add(self.requests[-1:])
            batch = self.scheduler.schedule()
            parts = [computed(part) for part in batch.requests]
            tables = [f"{request.request_id} {spaced(request.block_table)}" for request in self.scheduler.running]
            self.finish_step(batch)
            num_free = self.pool.num_free - len(self.pool.idle_blocks)
            cells = [str(number), ", ".join(parts), ", ".join(tables), spaced(self.pool.idle_blocks), str(num_free)]
            rows.append("| " + " | ".join(cells) + " |")
        assert not self.scheduler.has_unfinished
        return rows

    def finish_step(self, batch: ScheduledBatch) -> None:
        self.scheduler.update(batch)
        for part in batch.requests:
            if part.samples:
                request = part.request
                reply = self.replies[request.request_id]
                request.token_ids.append(LETTERS.index(reply[request.num_output_tokens]))
                if request.num_output_tokens == request.max_tokens:
                    self.scheduler.finish(request, "length")
        self.scheduler.check_integrity()


def computed(part) -> str:
    letters = "".join(LETTERS[token] for token in part.request.token_ids[part.start :][: part.num_tokens])
    return f"{part.request.request_id} `{letters}`" + (" *" if part.samples else "")


def spaced(blocks) -> str:
    return " ".join(map(str, blocks))


def test_the_steps_and_blocks_of_the_page_are_what_the_scheduler_does() -> None:
    table = PAGE.split("## Worked example")[1].split("\n|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert [" ".join(row.split()) for row in Replay().rows()] == table.splitlines()


def test_the_misses_of_the_page_are_explained_as_the_cache_explains_them() -> None:
    replay = Replay()
    replay.rows()
    table = PAGE.split("## Why a prompt was not cached")[1].split("\n|---|---|---|---|---|\n")[1].split("\n\n")[0]
    rows = []
    for request in replay.requests:
        report = asdict(request.cache_report)
        tokens = [report[key] for key in ("prompt_token_id", "cached_token_id")]
        tokens = [f"`{LETTERS[token]}` for `{LETTERS[tokens[1]]}`" if token is not None else "" for token in tokens[:1]]
        cells = [request.request_id, report["num_cached_tokens"], report["reason"], report["position"], *tokens]
        rows.append(" ".join(("| " + " | ".join(map(str, cells)) + " |").split()))
    assert rows == table.splitlines()


def test_the_numbers_in_the_page_are_those_of_the_code() -> None:
    assert f"blocks of {BLOCK_SIZE} tokens" in " ".join(PAGE.split())
