"""A mark on WebSockets whose application ends them in order when the server stops.

Above: applications of sockets, which set it, and `draining_socket`, which reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["ends_in_order", "is_to_end_in_order"]

_MARK = "glm_crush.ends_in_order"


def ends_in_order(scope: MutableMapping[str, Any]) -> None:
    """Say that the application of this socket closes it by itself soon after the server has begun to stop."""
    scope[_MARK] = True


def is_to_end_in_order(scope: Mapping[str, Any]) -> bool:
    """Whether it has said so."""
    return _MARK in scope
