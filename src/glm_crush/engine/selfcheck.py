"""Proves on this machine and model that a reply does not depend on how it was computed.

Above: `glm selfcheck`. Below: whole engines, built as the server builds them. The same requests are computed alone,
then in every other way the engine has, and the tokens must be equal; each way must also show that it was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from glm_crush.config import CrushSettings
from glm_crush.engine.build import BuiltEngine, MakeExecutor, build_engine
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.sync_engine import SyncEngine
from glm_crush.errors import ConfigError
from glm_crush.models.loader import LoadedModel
from glm_crush.types import SamplingParams

__all__ = ["WAYS", "CheckResult", "Way", "selfcheck"]

_TEXT = (
    "A river does not ask the stones how to reach the sea; it goes around them, and over the years the stones become "
    "round. People who live by a river learn two things early: when to cross, and when to wait. "
)
_MAX_TOKENS = 24
_BLOCK = 16
_Tokens = list[tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class _Run:
    """What came of computing all requests in one way."""

    tokens: _Tokens
    metrics: EngineMetrics
    num_cached_tokens: int


@dataclass(frozen=True)
class Way:
    """One way to compute the requests.

    Attributes:
        evidence: what shows that the way was taken, in words; empty = it was not. settings: what is not as plain.
        rounds: how often everything is computed; the last round counts. together: all requests at once, or one after
            the other. scarce: with a cache that holds the first two prompts and little of their replies.
    """

    name: str
    meaning: str
    evidence: Callable[[_Run], str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    together: bool = True
    scarce: bool = False


@dataclass(frozen=True)
class CheckResult:
    """What came of one way; `difference` is empty if all tokens were those of the plain run."""

    way: Way
    num_tokens: int
    evidence: str
    difference: str

    @property
    def passed(self) -> bool:
        """Equal tokens, computed in the way that was meant."""
        return not self.difference and bool(self.evidence)


_ALONE = Way("alone", "one after the other", lambda _: "", together=False)
WAYS: tuple[Way, ...] = (
    Way("batched", "all requests in the same steps", lambda run: f"{run.metrics.num_steps} steps"),
    Way(
        "chunked",
        "prompts in pieces of a few tokens between the steps of other replies",
        lambda run: f"{run.metrics.num_steps} steps",
        {"max_num_seqs": 8, "max_num_batched_tokens": 19},
    ),
    Way(
        "cached",
        "beginnings found in the prefix cache",
        lambda run: _counted(run.num_cached_tokens, "prompt tokens found"),
        {"prefix_cache": True},
        rounds=2,
    ),
    Way(
        "preempted",
        "put back into the queue for lack of memory, and computed again",
        lambda run: _counted(run.metrics.num_preemptions, "preemptions"),
        scarce=True,
    ),
    Way(
        "speculative",
        "tokens guessed ahead and verified",
        # Whether there is something to guess is the model's doing, not the engine's.
        lambda run: f"{run.metrics.num_drafted_tokens} guesses, {run.metrics.num_accepted_tokens} taken",
        {"speculation": "prompt_lookup"},
        together=False,
    ),
    Way("one thread", "without company", lambda run: f"{run.metrics.num_steps} steps", {"threads": 1}),
)


def selfcheck(
    loaded: LoadedModel,
    settings: CrushSettings,
    *,
    ways: Sequence[Way] = WAYS,
    make_executor: MakeExecutor | None = None,
) -> Iterator[CheckResult]:
    """Compute the same requests in every way; yields a result for each.

    Raises:
        ConfigError: the model's context is too short for the check, or settings and memory do not go together.
    """
    requests = _requests(loaded)
    longest = max(len(prompt) for prompt, _ in requests) + _MAX_TOKENS
    if longest > loaded.compiled.max_position:
        raise ConfigError(
            f"the check needs a context of {longest} tokens; this model has {loaded.compiled.max_position}"
        )
    room = sum((len(prompt) + _MAX_TOKENS + _BLOCK) * params.n for prompt, params in requests)
    plain = replace(settings, prefix_cache=False, speculation="off", kv_cache_tokens=room)
    expected = _compute(loaded, plain, requests, _ALONE, make_executor).tokens
    for way in ways:
        changed = replace(plain, **way.settings)
        if way.scarce:
            blocks = sum(-(-len(prompt) // _BLOCK) for prompt, _ in requests[:2])
            changed = replace(changed, kv_cache_tokens=(blocks + 1) * _BLOCK)
        run = _compute(loaded, changed, requests, way, make_executor)
        count = sum(len(reply) for request in run.tokens for reply in request)
        yield CheckResult(way, count, way.evidence(run), _difference(expected, run.tokens))


def _requests(loaded: LoadedModel) -> list[tuple[list[int], SamplingParams]]:
    """Prompts that share beginnings, of odd lengths, one that repeats itself; greedy, sampled, penalised, several."""
    ids = loaded.tokenizer.encode(_TEXT)
    long = (ids * 4)[: 9 * _BLOCK + 5]
    base = SamplingParams(max_tokens=_MAX_TOKENS, ignore_eos=True)
    return [
        (long, replace(base, temperature=0.0)),
        (long[: 5 * _BLOCK + 3], replace(base, temperature=0.0, repetition_penalty=1.1)),
        (ids[:7], replace(base, temperature=1.0, seed=1)),
        (long[: 7 * _BLOCK], replace(base, temperature=0.8, top_p=0.9, seed=2, presence_penalty=0.5)),
        (long[:-3] + ids[:3], replace(base, temperature=1.0, top_k=40, min_p=0.05, seed=3, n=2)),
    ]


def _compute(
    loaded: LoadedModel,
    settings: CrushSettings,
    requests: list[tuple[list[int], SamplingParams]],
    way: Way,
    make_executor: MakeExecutor | None,
) -> _Run:
    built: BuiltEngine = build_engine(loaded, settings, make_executor=make_executor)
    engine = SyncEngine(built.engine, max_in_flight=len(requests))
    try:
        for _ in range(way.rounds):
            if way.together:
                outputs = engine.run(requests)
            else:
                outputs = [engine.run([request])[0] for request in requests]
        built.engine.check_integrity()
        tokens = [tuple(reply.token_ids for reply in output.outputs) for output in outputs]
        return _Run(tokens, engine.metrics, sum(output.usage.cached_tokens for output in outputs))
    finally:
        engine.close()


def _difference(expected: _Tokens, found: _Tokens) -> str:
    for request, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        for reply, (a, b) in enumerate(zip(wanted, got, strict=True)):
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                change = f"{list(a[at : at + 1])} became {list(b[at : at + 1])}"
                return f"request {request}, reply {reply}, token {at}: {change}"
    return ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count else ""
