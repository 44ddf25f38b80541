"""What `/v1/moderations` asks: the guard's rules as a moderator.

Above: the guard's part. Below: rules, the guard model. Rules judge three categories of their own, `pii`, `secrets` and
`prompt_injection`; OpenAI's are for a guard model, and null without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from glm_crush.serving.guard.guard_model import GuardModel
from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.policy import RuleBook
from glm_crush.serving.guard.scanner import RuleSet
from glm_crush.serving.moderation import Judgement

__all__ = ["GuardModerator"]

_CATEGORIES = {"pii": "pii", "secrets": "secrets"}


class GuardModerator:
    """Judges texts by rules: 1.0 where one finds something, and the score of injections as it is; and by a model.

    Args:
        thresholds: from which the score of an injection, and a score of the model, counts.
    """

    def __init__(
        self,
        book: RuleBook,
        injections: Injections,
        model: GuardModel | None = None,
        *,
        thresholds: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        self._rules = RuleSet([r for r in book.spans if r.name.partition(".")[0] in _CATEGORIES and not r.is_guess])
        self._injections = injections
        self._model = model
        self._threshold, self._model_threshold = thresholds

    @property
    def name(self) -> str:
        """What clients call it."""
        return "glm-crush-rules" if self._model is None else self._model.name

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        """See `Moderator`."""
        by_rules = await asyncio.to_thread(lambda: [self._judge(text) for text in texts])
        if self._model is None:
            return by_rules
        return [await self._with_model(text, judged, self._model) for text, judged in zip(texts, by_rules, strict=True)]

    async def _with_model(self, text: str, judged: Judgement, model: GuardModel) -> Judgement:
        scores = await model.categories(text)
        flagged = {category for category, score in scores.items() if score >= self._model_threshold}
        return Judgement({**scores, **judged.scores}, judged.flagged | flagged)

    def _judge(self, text: str) -> Judgement:
        groups = {rule.name.partition(".")[0] for rule, _, _ in self._rules.find(text, 0, len(text))}
        scores = {category: float(group in groups) for group, category in _CATEGORIES.items()}
        flagged = {_CATEGORIES[group] for group in groups}
        scores["prompt_injection"] = self._injections.score(text).score
        if scores["prompt_injection"] >= self._threshold:
            flagged.add("prompt_injection")
        return Judgement(scores, frozenset(flagged))
