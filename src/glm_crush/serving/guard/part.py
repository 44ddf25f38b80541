"""The guard as a part of the server: on every model's turns, with a counter of findings, and `/v1/moderations`.

Above: `glm serve`. Below: the guard, the moderators. With no policy nothing but the route of moderations is there, and
its rules are compiled when it is first asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING

from glm_crush.config import Settings
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.moderation import Judgement, Moderator
from glm_crush.serving.openai.moderations import moderation_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.reloading.change import Commit, LiveChange
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
        self._in_force = _signature(settings)
        if _is_wanted(settings) and self._built.guard is not None:
            models.guard_turns(self._built.guard)

    def routes(self) -> Sequence[ApiRoute]:
        """POST /v1/moderations."""
        return moderation_routes(_LazyModerator(self))

    def live_changes(self) -> Sequence[LiveChange]:
        """The whole policy, and the rules file also when the settings stay."""
        keys = frozenset(f"guard.{spec.name}" for spec in fields(GuardSettings))
        return [LiveChange(frozenset(), self._prepare), LiveChange(keys, lambda _: _nothing)]

    def _prepare(self, settings: Settings) -> Commit:
        from glm_crush.serving.guard.build import build_guard

        new, signature = settings.guard, _signature(settings.guard)
        if signature == self._in_force:
            return _nothing
        built = build_guard(new, models=self._models, observe=self._observe)

        def commit() -> None:
            self._settings, self._in_force, self._built = new, signature, built
            self.__dict__.pop("moderator", None)
            self._models.guard_turns(built.guard if _is_wanted(new) else None)

        return commit

    @cached_property
    def _built(self) -> BuiltGuard:
        from glm_crush.serving.guard.build import build_guard

        return build_guard(self._settings, models=self._models, observe=self._observe)

    @property
    def model_name(self) -> str | None:
        """Of the model that judges."""
        return self._settings.model

    @cached_property
    def moderator(self) -> Moderator:
        """Made when it is first needed."""
        from glm_crush.serving.guard.moderator import GuardModerator

        thresholds = (self._settings.injection_threshold, self._settings.model_threshold)
        return GuardModerator(self._built.book, self._built.injections, self._built.model, thresholds=thresholds)


class _LazyModerator:
    """A moderator that is made off the event loop when it is first asked."""

    def __init__(self, part: GuardPart) -> None:
        self._part = part

    @property
    def name(self) -> str:
        """See `Moderator`."""
        return self._part.model_name or "glm-crush-rules"

    async def judge(self, texts: Sequence[str]) -> Sequence[Judgement]:
        """See `Moderator`."""
        moderator = await asyncio.to_thread(lambda: self._part.moderator)
        return await moderator.judge(texts)


def _is_wanted(settings: GuardSettings) -> bool:
    return (settings.input, settings.output, settings.rules_file, settings.model) != (None, None, None, None)


def _signature(settings: GuardSettings) -> tuple[GuardSettings, bytes]:
    """Everything that decides on the policy; an unreadable file is found out when it is read for its rules."""
    try:
        return settings, b"" if settings.rules_file is None else settings.rules_file.read_bytes()
    except OSError:
        return settings, b""


def _nothing() -> None:
    """Nothing is to be done."""
