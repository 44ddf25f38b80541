"""Measures prefill and decode through the engine, so that Python's share of a step is in the figures.

Above: `glm bench`. Below: an `Engine` whose cache is large enough. Prompts are random ids, fresh in every run, so that
no cache of prefixes can help.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from glm_crush.engine.engine import Engine
from glm_crush.errors import ConfigError
from glm_crush.types import SamplingParams

__all__ = ["BenchShape", "BenchTimes", "Spread", "run_bench"]

# The engine may draw several tokens per step while it only decodes; the first step's are not timed.
_MOST_DRAWN_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class BenchShape:
    """What is measured: `batch` sequences at once, each of these lengths; `seed` fixes the random prompts."""

    prompt_tokens: int
    generate_tokens: int
    depth: int
    batch: int
    repeat: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError when there is nothing to measure."""
        if not self.prompt_tokens and not self.generate_tokens:
            raise ConfigError(
                "prompt-tokens and generate-tokens are both 0, so there is nothing to measure; "
                "give --prompt-tokens, --generate-tokens or both"
            )

    def filling_steps(self, token_budget: int) -> int:
        """Steps in which some sequences decode already while the caches of others are still being filled, at most."""
        if self.batch == 1:
            return 0
        return -(-self.batch * max(self.depth, 1) // max(1, token_budget - self.batch)) + self.batch

    def reply_tokens(self, token_budget: int) -> int:
        """Longest reply: what is timed, and what is drawn before the clock starts."""
        return self.generate_tokens + _MOST_DRAWN_AT_ONCE + self.filling_steps(token_budget)

    def context_tokens(self, token_budget: int) -> int:
        """Longest prompt and reply of one sequence."""
        return max(self.prompt_tokens + 1, max(self.depth, 1) + self.reply_tokens(token_budget))


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one figure."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class BenchTimes:
    """Tokens per second, summed over the batch; None for a part that was not asked for."""

    prefill: Spread | None
    decode: Spread | None


def run_bench(
    engine: Engine,
    shape: BenchShape,
    *,
    vocab_size: int,
    token_budget: int,
    progress: Callable[[str, int], None] = lambda _, __: None,
) -> BenchTimes:
    """Warm up once, then measure `shape.repeat` times; `progress(part, run)` is told before each run.

    Prefill: `prompt_tokens` per sequence into an empty cache, up to the first token of all. Decode: the cache is
    filled to `depth` tokens and one token drawn, both untimed; then `generate_tokens` more per sequence are timed.
    Several sequences are filled one after the other and the first ones decode meanwhile, a few tokens beyond `depth`.
    """
    max_tokens = shape.reply_tokens(token_budget)
    draw = random.Random(shape.seed)

    def prompts(length: int) -> list[list[int]]:
        return [[draw.randrange(vocab_size) for _ in range(length)] for _ in range(shape.batch)]

    rates: dict[str, list[float]] = {"prefill": [], "decode": []}
    for run in range(shape.repeat + 1):
        for part, wanted in (("prefill", shape.prompt_tokens), ("decode", shape.generate_tokens)):
            if not wanted:
                continue
            progress(part, run)
            if part == "prefill":
                seconds = _time_prefill(engine, prompts(shape.prompt_tokens))
            else:
                seconds = _time_decode(engine, prompts(max(shape.depth, 1)), shape.generate_tokens, max_tokens)
            if run > 0:  # the first one only warms up
                rates[part].append(shape.batch * wanted / seconds)
    return BenchTimes(*(Spread.of(rates[part]) if rates[part] else None for part in ("prefill", "decode")))


def _time_prefill(engine: Engine, prompts: list[list[int]]) -> float:
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=1)
    for prompt in prompts:
        engine.add_request(prompt, params)
    started = time.perf_counter()
    while engine.has_unfinished:
        engine.step()
    return time.perf_counter() - started


def _time_decode(engine: Engine, prompts: list[list[int]], generate_tokens: int, max_tokens: int) -> float:
    """Seconds that `generate_tokens` more tokens of every sequence take, once all have drawn their first."""
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=max_tokens)
    requests = [engine.add_request(prompt, params) for prompt in prompts]
    begun: set[str] = set()
    while len(begun) < len(requests):
        begun.update(delta.request_id for delta in engine.step())
    wanted = len(requests) * generate_tokens
    drawn = 0
    started = time.perf_counter()
    while drawn < wanted and engine.has_unfinished:
        drawn += sum(len(delta.token_ids) for delta in engine.step())
    seconds = time.perf_counter() - started
    for request_id in requests:
        engine.abort(request_id)
    return seconds * wanted / drawn  # a step may draw several tokens at once, the first one too
