"""Why a prompt was not cached further, in words: where it left what had been computed before, and why.

Above: `glm run --explain-cache` and the protocol adapters. Below: the report of the engine. It shows the text of this
prompt alone: of what others have asked it knows a token, which it never tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glm_crush.types import CacheReport

__all__ = ["CacheExplanation", "explain_cache"]

_TOKENS_BEFORE, _TOKENS_AFTER = 12, 12
_REASONS = {
    "complete": "only the last block, which is not full or holds the last token, had to be computed",
    "new": "nobody had gone on with {token}, for this model, adapter and tenant",
    "evicted": "what goes on with {token} had been computed and has given way to other prompts since",
    "diverged": "what had been computed before goes on otherwise than with {token}",
}


@dataclass(frozen=True, kw_only=True)
class CacheExplanation:
    """A cache report with the text that it speaks of.

    Attributes:
        position: of the first token that differs, or was not found.
        before: the end of the text up to there. token: the text of the token there. after: what comes next.
        explanation: one sentence.
    """

    cached_tokens: int
    prompt_tokens: int
    reason: str
    position: int
    before: str
    token: str
    after: str
    explanation: str


def explain_cache(
    report: CacheReport,
    prompt_token_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    *,
    shared_with_others: bool = False,
) -> CacheExplanation:
    """Put a report into words.

    Args:
        report: of the engine.
        prompt_token_ids: of the prompt that it is about.
        decode: text of token ids.
        shared_with_others: prompts of other tenants are in the same cache. Then the place is told in whole blocks, as
            `cached_tokens` tells it anyway: token by token, somebody could guess on where others' prompts go on.
    """
    position = report.num_cached_tokens if shared_with_others else report.position
    total = len(prompt_token_ids)
    token = decode(prompt_token_ids[position : position + 1])
    reason = _REASONS[report.reason].format(token=f"token {position} ({token!r})")
    return CacheExplanation(
        cached_tokens=report.num_cached_tokens,
        prompt_tokens=total,
        reason=report.reason,
        position=position,
        before=decode(prompt_token_ids[max(0, position - _TOKENS_BEFORE) : position]),
        token=token,
        after=decode(prompt_token_ids[position + 1 : position + 1 + _TOKENS_AFTER]),
        explanation=f"{report.num_cached_tokens} of {total} prompt tokens were cached; {reason}",
    )
