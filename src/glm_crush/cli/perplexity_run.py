"""Perplexity of a text, as llama.cpp counts it, so that the figures can be compared.

The text is cut into windows of `context` tokens, each starts from an empty cache, and the tokens of its second half are
scored (Jelinek et al. 1977: `exp` of the mean negative log-likelihood).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from glm_crush.config import CrushSettings
from glm_crush.engine.build import build_engine
from glm_crush.errors import InvalidParameterError
from glm_crush.models.loader import LoadedModel

__all__ = ["DEFAULT_WINDOW", "Perplexity", "measure_perplexity"]

DEFAULT_WINDOW = 512  # what llama-perplexity uses


@dataclass(frozen=True)
class Perplexity:
    """`value` with its standard error, over `num_tokens` scored tokens."""

    value: float
    error: float
    num_tokens: int


def measure_perplexity(
    loaded: LoadedModel,
    settings: CrushSettings,
    text: str,
    *,
    context: int | None = None,
    max_windows: int | None = None,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> Perplexity:
    """Score a text; `progress` is told windows done and in all.

    `context` is the length of a window; None = 512, or the model's own if that is shorter.

    Raises:
        InvalidParameterError: the text is shorter than one window.
    """
    import numpy as np

    from glm_crush.kernels.program import ForwardBatch

    context = context or min(DEFAULT_WINDOW, loaded.compiled.max_position)
    start = loaded.tokenizer.encode("", add_special_tokens=True)
    token_ids = loaded.tokenizer.encode(text, add_special_tokens=True)
    windows = _windows(token_ids, context, start[:1])
    windows = windows if max_windows is None else windows[:max_windows]
    if not windows:
        raise InvalidParameterError(
            f"the text has {len(token_ids)} tokens; one window takes {context}. Give a longer text or a smaller context"
        )
    crush = replace(
        settings, kv_cache_tokens=context, max_num_seqs=1, max_num_batched_tokens=context, prefix_cache=False
    )
    built = build_engine(loaded, crush, max_context=context)
    blocks = np.arange(built.cache.num_blocks, dtype=np.int32)[None]
    half = context // 2
    losses = []
    for number, window in enumerate(windows):
        progress(number, len(windows))
        batch = ForwardBatch(
            token_ids=np.asarray(window, np.int32),
            positions=np.arange(context, dtype=np.int32),
            query_start=np.array([0, context], np.int32),
            context_lens=np.array([context], np.int32),
            block_tables=blocks,
            logit_rows=np.arange(half, context - 1, dtype=np.int32),
        )
        logits = built.executor.forward(batch).astype(np.float64)
        highest = logits.max(axis=1)
        log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
        losses.append(log_sums - logits[np.arange(len(logits)), window[half + 1 :]])
    progress(len(windows), len(windows))
    loss = np.concatenate(losses)
    value = float(np.exp(loss.mean()))
    error = value * float(loss.std(ddof=1) / np.sqrt(len(loss))) if len(loss) > 1 else 0.0
    return Perplexity(value, error, len(loss))


def _windows(token_ids: Sequence[int], context: int, start: Sequence[int]) -> list[list[int]]:
    """Whole windows; each begins with the model's start token, if it has one, in the place of its first token."""
    cut = [list(token_ids[at : at + context]) for at in range(0, len(token_ids) - context + 1, context)]
    return [[*start, *window[len(start) :]] for window in cut]
