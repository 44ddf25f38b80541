"""What guesses tokens ahead beside the text itself: a second model, or a layer of the model's own.

Above: `build`, and whoever loads models. Below: the drafters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from glm_crush.config import CrushSettings, Settings
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.draft_model import DraftModel
from glm_crush.engine.runner import Executor, Runner
from glm_crush.engine.scheduler_limits import SchedulerLimits
from glm_crush.errors import ConfigError
from glm_crush.models.compiler import compile_next_token_layer
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["check_same_tokens", "find_next_token_layer", "keeping_hidden", "load_draft_model", "make_draft_model"]


def load_draft_model(settings: Settings) -> LoadedModel | None:
    """The second model, if one is set and used.

    Raises:
        ConfigError: the settings ask for one and name none.
        ModelError: it does not exist or cannot be used.
    """
    crush = settings.crush
    if crush.speculation == "draft" and crush.draft_model is None:
        raise ConfigError("speculation is 'draft' and draft_model is unset; name a small model with the same tokens")
    if crush.draft_model is None or crush.speculation not in ("auto", "draft"):
        return None
    # Imported here: without a second model there is no need for the store.
    from glm_crush.weights.store import ModelStore

    path = ModelStore(settings.store.home).resolve(crush.draft_model)
    return load_model(path, cache_dir=settings.store.home / "packed", weight_format=crush.weight_format)


def find_next_token_layer(settings: CrushSettings, loaded: LoadedModel) -> LoadedModel | None:
    """The model's multi-token prediction layer as a model of its own, if the settings ask for it.

    Raises:
        ConfigError: they do and the model has none.
    """
    if settings.speculation != "mtp":
        return None
    names = {entry.name for entry in loaded.packed.entries()}
    compiled = compile_next_token_layer(loaded.packed.header.config, loaded.compiled, names)
    if compiled is None:
        raise ConfigError(
            f"speculation is 'mtp' and {loaded.packed.path.name} holds no multi-token prediction layer: only GLM-4.5 "
            "and later have one, and tools that save a checkpoint again drop it; choose another speculation"
        )
    return replace(loaded, compiled=compiled)


def keeping_hidden(loaded: LoadedModel) -> LoadedModel:
    """The same model, whose hidden states outlive each step."""
    program = replace(loaded.compiled.program, keeps_hidden=True)
    return replace(loaded, compiled=replace(loaded.compiled, program=program))


def make_draft_model(
    settings: CrushSettings,
    target: LoadedModel,
    draft: LoadedModel,
    limits: SchedulerLimits,
    cache: CachePlan,
    make_executor: Callable[[LoadedModel, CrushSettings, CachePlan], Executor],
) -> DraftModel:
    """A second model that guesses.

    Args:
        settings: of its executor.
        target: the model whose replies are guessed.
        draft: the second model; its cache has as many blocks as `cache`, the first one's.
        limits: of the engine's steps.
        cache: of the target.
        make_executor: what runs the second model.

    Raises:
        ConfigError: the two models do not have the same tokens.
    """
    check_same_tokens(target.tokenizer, draft.tokenizer)
    program = draft.compiled.program
    max_context = min(cache.max_context, draft.compiled.max_position)
    plan = CachePlan(max_context, cache.num_blocks, cache.block_size, 0)
    draft_limits = SchedulerLimits(
        max_context=max_context, max_num_seqs=limits.max_num_seqs, token_budget=limits.token_budget
    )
    runner = Runner(
        make_executor(draft, settings, plan), draft_limits, block_size=cache.block_size, vocab_size=program.vocab_size
    )
    vocab_size = min(program.vocab_size, target.compiled.program.vocab_size)
    return DraftModel(runner, BlockPool(cache.num_blocks, cache.block_size), draft_limits, vocab_size=vocab_size)


def check_same_tokens(target: Tokenizer, draft: Tokenizer) -> None:
    """Raises ConfigError when a token of one has another id, or none, in the other."""
    ours, theirs = target.vocabulary(), draft.vocabulary()
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if differing:
        token = differing[0]
        raise ConfigError(
            f"the draft model has other tokens: {len(differing)} differ, {token!r} is {theirs.get(token)} there and "
            f"{ours.get(token)} here; choose a draft model of the same family"
        )
