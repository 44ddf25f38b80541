"""Puts an engine together for a loaded model: cache sized, executor made, parts wired.

Above: `llm` and the composition root of the server. Below: everything in `engine`, `models`, `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from glm_crush.config import CrushSettings, KvDtype
from glm_crush.engine.adapters import AdapterExecutor, Adapters
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.build_drafter import find_next_token_layer, keeping_hidden, make_draft_model
from glm_crush.engine.cache_plan import CachePlan, kv_dtype_beside
from glm_crush.engine.deadlines import Deadlines
from glm_crush.engine.engine import Engine
from glm_crush.engine.fair_share import FairShare, tenant_weights
from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.engine.machine import available_memory_bytes, physical_cores, release_free_memory
from glm_crush.engine.memory_plan import BLOCK_SIZE, plan_memory
from glm_crush.engine.mtp import LayerExecutor, ModelExecutor, NextTokenLayer
from glm_crush.engine.pacing import DecodePacer
from glm_crush.engine.prefix_cache import PrefixCache
from glm_crush.engine.prefix_store.open import open_stored_prefixes
from glm_crush.engine.prompt_lookup import PromptLookup
from glm_crush.engine.reply import Detokenizer
from glm_crush.engine.runner import Executor, Runner
from glm_crush.engine.scheduler import Scheduler, SchedulerLimits
from glm_crush.engine.speculation import Drafter, Speculation
from glm_crush.engine.step_budget import StepBudget
from glm_crush.errors import ConfigError, UnsupportedModelError
from glm_crush.models.adapter_weights import adapter_parts
from glm_crush.models.loader import LoadedModel
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer

__all__ = ["BuiltEngine", "MakeExecutor", "build_engine"]

# Most tokens that one call draws per request: beyond this the saving is small and a reply's end is computed in vain.
_MAX_DECODE_STEPS = 8
# Left to the rest of the process and of the machine.
_SPARE_SHARE = 0.1

MakeExecutor = Callable[[LoadedModel, CrushSettings, CachePlan], Executor]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine with what its owner may want to know about it."""

    engine: Engine
    executor: Executor
    cache: CachePlan
    kv_dtype: KvDtype
    grammars: GrammarCompiler


def build_engine(
    loaded: LoadedModel,
    settings: CrushSettings,
    *,
    max_context: int | None = None,
    make_executor: MakeExecutor | None = None,
    draft: LoadedModel | None = None,
    drafter: Drafter | None = None,
) -> BuiltEngine:
    """Size the cache, allocate it and wire the engine.

    Args:
        loaded: the model, its weights mapped.
        settings: threads, cache, batching.
        max_context: longest prompt and reply; None = what model and memory allow.
        make_executor: None = the native executor.
        draft: the second model that guesses tokens ahead, if there is one (see `load_draft_model`).
        drafter: who guesses instead of what the settings say.

    Raises:
        ConfigError: the settings contradict each other, the model or the memory; states the numbers.
        UnsupportedModelError: the model generates nothing.
    """
    if loaded.compiled.readout.task != "generate":
        raise UnsupportedModelError(
            f"this model (family {loaded.compiled.family}) generates no text; "
            "`glm embed`, `glm rerank` and `glm serve --embedding-model` are for such models"
        )
    if settings.max_num_batched_tokens < settings.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens is {settings.max_num_batched_tokens} and max_num_seqs {settings.max_num_seqs}; "
            "a step must have a token for every running request: raise the first or lower the second"
        )
    settings = replace(settings, kv_dtype=kv_dtype_beside(loaded.packed.weight_formats(), settings.kv_dtype))
    layer = find_next_token_layer(settings, loaded)
    models = [model for model in (loaded, draft, layer) if model is not None]
    budget_bytes = int(available_memory_bytes() * (1 - _SPARE_SHARE))
    cache = plan_memory(models, settings, max_context=max_context, budget_bytes=budget_bytes).cache
    make_executor = make_executor or _native_executor
    executor = make_executor(loaded if layer is None else keeping_hidden(loaded), settings, cache)
    limits = SchedulerLimits(
        max_context=cache.max_context,
        max_num_seqs=settings.max_num_seqs,
        token_budget=settings.max_num_batched_tokens,
        max_queue_size=settings.max_queue_size,
    )
    vocab_size = loaded.compiled.program.vocab_size
    tokenizer = loaded.tokenizer

    def make_detokenizer(prompt_token_ids: Sequence[int], skip_special_tokens: bool) -> Detokenizer:
        return IncrementalDetokenizer(tokenizer, skip_special_tokens=skip_special_tokens, continues=prompt_token_ids)

    pool = BlockPool(cache.num_blocks, BLOCK_SIZE)
    eos_token_ids = sorted({*loaded.compiled.eos_token_ids, *tokenizer.eos_token_ids})
    grammars = GrammarCompiler(
        tokenizer.definition,
        vocab_size=vocab_size,
        eos_token_ids=eos_token_ids,
        max_seconds=settings.grammar_seconds,
    )
    runner = Runner(
        executor,
        limits,
        block_size=BLOCK_SIZE,
        vocab_size=vocab_size,
        adapters=Adapters(
            cast("AdapterExecutor", executor),
            lambda adapter: adapter_parts(adapter, loaded.compiled, loaded.packed.header.config),
        ),
    )
    if drafter is None and draft is not None:
        drafter = make_draft_model(settings, loaded, draft, limits, cache, make_executor)
    elif drafter is None and layer is not None:
        drafter = NextTokenLayer(
            cast("ModelExecutor", executor),
            cast("LayerExecutor", make_executor(layer, settings, cache)),
            limits,
            block_size=BLOCK_SIZE,
            vocab_size=vocab_size,
            grammars=runner.grammars,
        )
    elif drafter is None and settings.speculation != "off":
        drafter = PromptLookup()
    prefix_cache = PrefixCache(pool) if settings.prefix_cache else None
    engine = Engine(
        runner,
        Scheduler(
            limits,
            pool,
            prefix_cache,
            FairShare(tenant_weights(settings.tenant_weights)),
        ),
        eos_token_ids=eos_token_ids,
        make_detokenizer=make_detokenizer,
        grammars=grammars,
        pacer=DecodePacer(max_steps=_MAX_DECODE_STEPS),
        step_budget=StepBudget(max_seconds=settings.max_step_seconds, max_tokens=settings.max_num_batched_tokens),
        deadlines=Deadlines(settings.deadline_seconds),
        stored_prefixes=open_stored_prefixes(settings, loaded, executor, prefix_cache, pool),
        speculation=None if drafter is None else Speculation(drafter, max_tokens=settings.speculation_max_tokens),
    )
    release_free_memory()  # what loading took for a moment
    return BuiltEngine(engine, executor, cache, settings.kv_dtype, grammars)


def _native_executor(loaded: LoadedModel, settings: CrushSettings, cache: CachePlan) -> Executor:
    # Imported here: with another executor there is no need for the compiled module.
    from glm_crush.kernels.native import Executor as NativeExecutor

    return NativeExecutor(
        loaded.compiled.program,
        loaded.packed,
        num_threads=settings.threads or physical_cores(),
        num_blocks=cache.num_blocks,
        max_tokens=settings.max_num_batched_tokens,
        block_size=cache.block_size,
        kv_dtype=settings.kv_dtype,
        kernels=settings.force_kernels,
    )
