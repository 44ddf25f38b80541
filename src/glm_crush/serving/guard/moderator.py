"""What `/v1/moderations` asks: the guard's rules as a moderator.

Above: the guard's part. Below: rules. Rules judge three categories of their own, `pii`, `secrets` and
`prompt_injection`; OpenAI's are for a guard model, and null without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.policy import RuleBook
from glm_crush.serving.guard.scanner import RuleSet
from glm_crush.serving.moderation import Judgement

__all__ = ["RuleModerator"]

_CATEGORIES = {"pii": "pii", "secrets": "secrets"}


class RuleModerator:
    """Judges texts by rules: 1.0 where one finds something, and the score of injections as it is."""

    name = "glm-crush-rules"

    def __init__(self, book: RuleBook, injections: Injections, injection_threshold: float) -> None:
        self._rules = RuleSet([r for r in book.spans if r.name.partition(".")[0] in _CATEGORIES and not r.is_guess])
        self._injections = injections
        self._threshold = injection_threshold

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        """See `Moderator`."""
        return await asyncio.to_thread(lambda: [self._judge(text) for text in texts])

    def _judge(self, text: str) -> Judgement:
        groups = {rule.name.partition(".")[0] for rule, _, _ in self._rules.find(text, 0, len(text))}
        scores = {category: float(group in groups) for group, category in _CATEGORIES.items()}
        flagged = {_CATEGORIES[group] for group in groups}
        scores["prompt_injection"] = self._injections.score(text).score
        if scores["prompt_injection"] >= self._threshold:
            flagged.add("prompt_injection")
        return Judgement(scores, frozenset(flagged))
