"""How a setting is declared: its default, what it means, its lower bound, whether it may be shown.

Above: the sections of `config.py`.
"""

from __future__ import annotations

import typing
from dataclasses import field

__all__ = ["setting"]


def setting(default: object, help_text: str, *, low: float | None = None, secret: bool = False) -> typing.Any:
    """A dataclass field with its documentation, lower bound and whether it is shown."""
    return field(default=default, metadata={"help": help_text, "low": low, "secret": secret})
