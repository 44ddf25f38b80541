"""What a parsed reply consists of, in the order of the reply.

Above: whoever shows or sends a reply. Below: nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["PartKind", "ReplyPart", "merge_parts"]

PartKind = Literal["reasoning", "content", "tool_name", "tool_arguments"]


@dataclass(frozen=True, slots=True)
class ReplyPart:
    """A piece of one kind.

    Attributes:
        text: a tool's name comes whole, everything else in pieces that add up.
        index: number of the tool call within the reply.
    """

    kind: PartKind
    text: str
    index: int = 0


def merge_parts(parts: Iterable[ReplyPart]) -> list[ReplyPart]:
    """The same parts with neighbours of one kind and call joined; empty ones are left out."""
    merged: list[ReplyPart] = []
    for part in parts:
        if not part.text:
            continue
        before = merged[-1] if merged else None
        if before is not None and part.kind != "tool_name" and (before.kind, before.index) == (part.kind, part.index):
            merged[-1] = ReplyPart(part.kind, before.text + part.text, part.index)
        else:
            merged.append(part)
    return merged
