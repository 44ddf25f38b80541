"""The guard as a part of the server: on every model's turns, with a counter of findings, and `/v1/moderations`.

Above: `glm serve`. Below: the guard, the moderators. With no policy nothing but the route of moderations is there, and
its rules are compiled when it is first asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.moderation import Judgement, Moderator
from glm_crush.serving.openai.moderations import moderation_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels

if TYPE_CHECKING:
    from glm_crush.serving.guard.build import BuiltGuard
    from glm_crush.serving.guard.guard import Observe

__all__ = ["GuardPart"]


class GuardPart(ServerPart):
    """Guards the turns of `models` as the settings say.

    Args:
        observe: told of every finding.

    Raises:
        ConfigError: a rule, an action or the rules file is wrong.
    """

    def __init__(self, models: ServedModels, settings: GuardSettings, *, observe: Observe | None = None) -> None:
        self._settings = settings
        self._models = models
        self._observe = observe
        if (settings.input, settings.output, settings.rules_file, settings.model) == (None, None, None, None):
            return
        if self._built.guard is not None:
            models.guard_turns(self._built.guard)

    def routes(self) -> Sequence[ApiRoute]:
        """POST /v1/moderations."""
        return moderation_routes(_LazyModerator(self, self._settings.model))

    @cached_property
    def _built(self) -> BuiltGuard:
        from glm_crush.serving.guard.build import build_guard

        return build_guard(self._settings, models=self._models, observe=self._observe)

    @cached_property
    def moderator(self) -> Moderator:
        """Made when it is first needed."""
        from glm_crush.serving.guard.moderator import GuardModerator

        thresholds = (self._settings.injection_threshold, self._settings.model_threshold)
        return GuardModerator(self._built.book, self._built.injections, self._built.model, thresholds=thresholds)


class _LazyModerator:
    """A moderator that is made off the event loop when it is first asked."""

    def __init__(self, part: GuardPart, name: str | None) -> None:
        self.name = name or "glm-crush-rules"
        self._part = part
        self._made: Moderator | None = None

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        """See `Moderator`."""
        if self._made is None:
            self._made = await asyncio.to_thread(lambda: self._part.moderator)
        return await self._made.judge(texts)
