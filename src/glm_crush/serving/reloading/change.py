"""Settings that can change while the server runs, as whoever uses them declares it.

Above: `reloading.py` and the parts of the server. Below: the settings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from glm_crush.config import Settings

__all__ = ["Commit", "LiveChange"]

# Puts checked settings in force; must not fail. What it returns is waited for when all settings are in force; it says
# what of them could not be had after all, such as a model, and why.
Commit = Callable[[], Awaitable[Mapping[str, str]] | None]


@dataclass(frozen=True)
class LiveChange:
    """Some settings, and how new values of theirs come into force.

    Attributes:
        keys: such as `gateway.audit`; empty = something that settings only name, and is looked at every time.
        prepare: checks the values and returns what puts them in force. Raises ConfigError: they cannot be.
    """

    keys: frozenset[str]
    prepare: Callable[[Settings], Commit]
