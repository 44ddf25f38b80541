"""Who guesses tokens ahead, by the settings: nobody, the text itself, or a second model.

Above: `build`, and whoever loads models. Below: the drafters.
"""

from __future__ import annotations

from collections.abc import Callable

from glm_crush.config import CrushSettings, Settings
from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.draft_model import DraftModel
from glm_crush.engine.prompt_lookup import PromptLookup
from glm_crush.engine.runner import Executor, Runner
from glm_crush.engine.scheduler_limits import SchedulerLimits
from glm_crush.engine.speculation import Drafter
from glm_crush.errors import ConfigError
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["check_same_tokens", "load_draft_model", "make_drafter"]


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


def make_drafter(
    settings: CrushSettings,
    target: LoadedModel,
    draft: LoadedModel | None,
    limits: SchedulerLimits,
    cache: CachePlan,
    make_executor: Callable[[LoadedModel, CrushSettings, CachePlan], Executor],
) -> Drafter | None:
    """What the settings ask for; None = no guesses.

    Args:
        settings: which.
        target: the model whose replies are guessed.
        draft: the second model; its cache has as many blocks as `cache`, the first one's.
        limits: of the engine's steps.
        cache: of the target.
        make_executor: what runs the second model.

    Raises:
        ConfigError: the two models do not have the same tokens.
    """
    if settings.speculation == "off":
        return None
    if draft is None:
        return PromptLookup()
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
