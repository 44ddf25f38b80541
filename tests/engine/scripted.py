"""An executor without a model, and builders for engines around it.

The executor keeps tokens where a real one keeps keys and values: in blocks, written and read through the block
tables. Its logits depend on every token of the context it reads back, so a wrong position, table or chunk changes
the reply.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.engine import Engine
from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.engine.output import OutputCollector, RequestDelta
from glm_crush.engine.pacing import DecodePacer
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.reply import MakeDetokenizer
from glm_crush.engine.runner import Runner
from glm_crush.engine.scheduler import Scheduler, SchedulerLimits
from glm_crush.engine.speculation import Drafter, Speculation
from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.sampling import SampleBatch, SampleResult, reference_sample
from glm_crush.types import RequestOutput, SamplingParams

VOCAB_SIZE = 50
Float32 = npt.NDArray[np.float32]
Rule = Callable[[Sequence[int]], int]


def random_logits(context: Sequence[int]) -> Float32:
    """Logits that any change of the context changes."""
    seed = zlib.crc32(np.array(context, np.int32).tobytes())
    return np.random.default_rng(seed).normal(0, 3, VOCAB_SIZE).astype(np.float32)


def logits_for(rule: Rule) -> Callable[[Sequence[int]], Float32]:
    """Logits whose likeliest token is `rule(context)` by far."""

    def logits(context: Sequence[int]) -> Float32:
        row = np.zeros(VOCAB_SIZE, np.float32)
        row[rule(context)] = 50.0
        return row

    return logits


class ScriptedExecutor:
    """Computes logits from the context in its block cache.

    `steps` keeps `(num_tokens, num_seqs)` of each forward pass, `decode_calls` the steps of each call of `decode`.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        logits: Callable[[Sequence[int]], Float32] = random_logits,
        before_step: Callable[[], None] = lambda: None,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        self._vocab_size = vocab_size
        self.steps: list[tuple[int, int]] = []
        self.decode_calls: list[int] = []
        self.copied: list[tuple[int, int]] = []
        self.sample_batches: list[SampleBatch] = []
        self._cache = np.full((num_blocks, block_size), -1, np.int32)
        self._block_size = block_size
        self._logits = logits
        self._before_step = before_step

    def forward(self, batch: ForwardBatch) -> Float32:
        self._before_step()
        self.steps.append((len(batch.token_ids), len(batch.context_lens)))
        wanted = set(batch.logit_rows.tolist())
        rows = {}
        for seq in range(len(batch.context_lens)):
            first, end = int(batch.query_start[seq]), int(batch.query_start[seq + 1])
            assert batch.positions[end - 1] == batch.context_lens[seq] - 1
            for token in range(first, end):
                position = int(batch.positions[token])
                assert position == batch.positions[first] + token - first
                block = batch.block_tables[seq, position // self._block_size]
                assert block >= 0
                self._cache[block, position % self._block_size] = batch.token_ids[token]
            for token in wanted & set(range(first, end)):
                rows[token] = self._logits(self._context(batch.block_tables[seq], int(batch.positions[token]) + 1))
        return np.array([rows[row] for row in batch.logit_rows.tolist()], np.float32).reshape(-1, self._vocab_size)

    def forward_sample(self, batch: ForwardBatch, sample_batch: SampleBatch) -> SampleResult:
        self.sample_batches.append(sample_batch)
        return reference_sample(self.forward(batch), sample_batch)

    def decode(self, batch: ForwardBatch, sample_batch: SampleBatch, num_steps: int) -> npt.NDArray[np.int32]:
        self.decode_calls.append(num_steps)
        return decode_step_by_step(self, batch, sample_batch, num_steps)

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        for source, target in zip(sources, targets, strict=True):
            self.copied.append((int(source), int(target)))
            self._cache[target] = self._cache[source]

    @property
    def block_bytes(self) -> int:
        return int(self._cache[0].nbytes)

    @property
    def numerics(self) -> str:
        return "scripted"

    def read_blocks(self, blocks: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]) -> None:
        out[:] = self._cache[blocks].view(np.uint8)

    def write_blocks(self, blocks: npt.NDArray[np.int32], data: npt.NDArray[np.uint8]) -> None:
        self._cache[blocks] = data.view(np.int32)

    def _context(self, table: npt.NDArray[np.int32], length: int) -> list[int]:
        size = self._block_size
        return [int(self._cache[table[p // size], p % size]) for p in range(length)]


class StepExecutor(Protocol):
    def forward_sample(self, batch: ForwardBatch, sample_batch: SampleBatch) -> SampleResult: ...


def decode_step_by_step(
    executor: StepExecutor, batch: ForwardBatch, sample_batch: SampleBatch, num_steps: int
) -> npt.NDArray[np.int32]:
    """What `Executor.decode` does in one call, with a call for each step."""
    assert len(batch.token_ids) == len(batch.context_lens) == len(batch.logit_rows)
    drawn = np.full((num_steps, len(batch.token_ids)), -1, np.int32)
    alive = np.ones(len(batch.token_ids), bool)
    for step in range(num_steps):
        tokens = executor.forward_sample(batch, sample_batch).token_ids
        alive &= tokens >= 0
        drawn[step, alive] = tokens[alive]
        batch = replace(
            batch,
            token_ids=np.where(alive, tokens, batch.token_ids),
            positions=batch.positions + 1,
            context_lens=batch.context_lens + 1,
        )
        sample_batch = replace(sample_batch, counter=sample_batch.counter + np.uint64(1))
    return drawn


class LetterDetokenizer:
    """Token 0 is "a", 1 is "b", ..."""

    def add(self, token_id: int) -> str:
        return chr(ord("a") + token_id)

    def finish(self) -> str:
        return ""


def make_limits(**overrides: int) -> SchedulerLimits:
    return SchedulerLimits(
        **{"max_context": 128, "max_num_seqs": 8, "token_budget": 32, "max_queue_size": 16, **overrides}
    )


def make_engine(
    *,
    executor: ScriptedExecutor | None = None,
    logits: Callable[[Sequence[int]], Float32] = random_logits,
    num_blocks: int = 64,
    block_size: int = 4,
    eos_token_ids: Sequence[int] = (),
    make_detokenizer: MakeDetokenizer | None = lambda prompt, skip_special_tokens: LetterDetokenizer(),
    clock: Callable[[], float] | None = None,
    grammars: GrammarCompiler | None = None,
    vocab_size: int = VOCAB_SIZE,
    max_decode_steps: int = 1,
    prefix_cache: bool = False,
    drafter: Drafter | None = None,
    max_draft_tokens: int = 4,
    **limits: int,
) -> Engine:
    executor = executor or ScriptedExecutor(num_blocks=num_blocks, block_size=block_size, logits=logits)
    step_limits = make_limits(**limits)
    pool = BlockPool(num_blocks, block_size)
    return Engine(
        Runner(executor, step_limits, block_size=block_size, vocab_size=vocab_size),
        Scheduler(step_limits, pool, PrefixCache(pool) if prefix_cache else None),
        eos_token_ids=eos_token_ids,
        make_detokenizer=make_detokenizer,
        grammars=grammars,
        pacer=DecodePacer(max_steps=max_decode_steps),
        speculation=None if drafter is None else Speculation(drafter, max_tokens=max_draft_tokens),
        **({} if clock is None else {"clock": clock}),
    )


def run(engine: Engine, *requests: tuple[Sequence[int], SamplingParams]) -> list[RequestOutput]:
    """Add all requests at once and step to the end, checking integrity after every step."""
    collectors = {}
    for prompt, params in requests:
        request_id = engine.add_request(prompt, params)
        collectors[request_id] = OutputCollector(request_id, prompt, n=params.n)
    for delta in run_deltas(engine):
        collectors[delta.request_id].add(delta)
    return [collector.output() for collector in collectors.values()]


def run_deltas(engine: Engine) -> list[RequestDelta]:
    """Step to the end."""
    deltas = []
    while engine.has_unfinished:
        deltas += engine.step()
        engine.check_integrity()
    return deltas


def greedy(max_tokens: int | None = 8, **overrides: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **overrides)  # type: ignore[arg-type]


def sampled(max_tokens: int | None = 8, **overrides: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, **overrides)  # type: ignore[arg-type]
