"""Engines that children of tests build: scripted, with tokens in a prompt that make the child misbehave.

Called by name in a process of its own; the parent must have this repository on its PYTHONPATH.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.engine import Engine
from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.errors import ConfigError
from glm_crush.types import StructuredOutput
from tests.engine import grammar_models
from tests.engine.scripted import ScriptedExecutor, make_engine

MAKE = "tests.engine.process_children:make"
CACHE = CachePlan(max_context=128, num_blocks=64, block_size=4, num_bytes=1024)
BEFORE = 47
KILLER, HANGER, RAISER = 41, 42, 43  # tokens with their meaning behind BEFORE
DEADLY = "a grammar"


@dataclass(frozen=True)
class Hosted:
    engine: Engine
    cache: CachePlan
    grammars: GrammarCompiler | None


class _Trap(ScriptedExecutor):
    """Dies, hangs or raises when it sees certain tokens; holds forever before step `hold_before`."""

    hold_before: int | None = None
    num_steps = 0

    def forward(self, batch: Any) -> Any:
        ids, starts = batch.token_ids.tolist(), batch.query_start.tolist()
        chunks = [ids[start:end] for start, end in pairwise(starts)]
        tokens = {second for chunk in chunks for first, second in pairwise(chunk) if first == BEFORE}
        if KILLER in tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGER in tokens or self.num_steps == self.hold_before:
            threading.Event().wait()
        if RAISER in tokens:
            raise ValueError("kernel on fire")
        self.num_steps += 1
        return super().forward(batch)


def make(*, hold_first_before: int | None = None, marker: str = "", **limits: int) -> Hosted:
    """A scripted engine.

    Args:
        hold_first_before: the first child (the one that finds no file `marker`) holds before this step.
    """
    executor = _Trap()
    if hold_first_before is not None and not Path(marker).exists():
        Path(marker).touch()
        executor.hold_before = hold_first_before
    return Hosted(make_engine(executor=executor, **limits), CACHE, None)


def make_with_grammars() -> Hosted:
    return Hosted(grammar_models.engine(), CACHE, grammar_models.COMPILER)


NOTHING = StructuredOutput.choice(["nothing"])


class SlowGrammars(GrammarCompiler):
    """Takes a grammar that names a FIFO for compiled once somebody has written to it."""

    def __init__(self) -> None:
        super().__init__(
            grammar_models.tokenizer_definition,
            vocab_size=grammar_models.GLM_VOCAB_SIZE,
            eos_token_ids=grammar_models.EOS,
        )

    def check(self, structured: StructuredOutput) -> None:
        if structured.grammar.startswith("/"):
            fifo = Path(structured.grammar.strip())
            fifo.with_suffix(".reached").touch()
            fifo.read_text()
            structured = NOTHING  # a path is no regular expression
        super().check(structured)


def make_with_slow_grammars(*, default_deadline_seconds: float | None = None) -> Hosted:
    engine = grammar_models.engine()
    engine.deadlines.default_seconds = default_deadline_seconds
    return Hosted(engine, CACHE, SlowGrammars())


class _DeadlyGrammars(GrammarCompiler):
    """Ends the process that compiles a certain regular expression."""

    def check(self, structured: StructuredOutput) -> None:
        if structured.grammar == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)


def make_with_deadly_grammars() -> Hosted:
    return Hosted(make_engine(executor=_Trap()), CACHE, _DeadlyGrammars(bytes, vocab_size=8, eos_token_ids=()))


def make_badly() -> Hosted:
    raise ConfigError("the context length is set to 9; this model takes 8. Lower it.")


def hang_while_loading() -> Hosted:
    threading.Event().wait()
    raise AssertionError


def die_while_loading() -> Hosted:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
