"""Loads that have just failed: not tried again at once, however many ask, and not held against a model for ever."""

from __future__ import annotations

from glm_crush.errors import ModelLoadError

__all__ = ["FailedLoads"]

_SECONDS = 5.0


class FailedLoads:
    """Why models could not be loaded within the last seconds."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[float, str]] = {}

    def add(self, name: str, why: str, now: float) -> ModelLoadError:
        """One more; returns what its clients are told."""
        self._failures[name] = (now + _SECONDS, why)
        return ModelLoadError(why, retry_after_seconds=_SECONDS)

    def check(self, name: str, now: float) -> None:
        """Raises ModelLoadError: it has failed just now."""
        until, why = self._failures.get(name, (now, ""))
        if until > now:
            raise ModelLoadError(why, retry_after_seconds=until - now)
        self._failures.pop(name, None)

    def forgive(self, name: str) -> None:
        """Somebody who knows better asks for it."""
        self._failures.pop(name, None)
