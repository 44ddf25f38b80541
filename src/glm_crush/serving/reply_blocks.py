"""A reply as blocks that begin, grow and end, for protocols whose streams say so.

Above: protocol adapters. Below: reply parts, which only say what comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from glm_crush.chat.reply_part import ReplyPart

__all__ = ["BlockEvent", "BlockKind", "ReplyBlocks"]

BlockKind = Literal["reasoning", "content", "tool_call"]


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """One event of one block.

    Attributes:
        index: of the block within the reply. kind: of the block.
        text: in a "start" the name of the tool that is called, else empty; in a "delta" what is new; in a "stop" all of
            the block's text.
    """

    event: Literal["start", "delta", "stop"]
    index: int
    kind: BlockKind
    text: str


class ReplyBlocks:
    """The blocks of one reply. Each is ended before the next begins."""

    def __init__(self) -> None:
        self.num_blocks = 0
        self._open: BlockKind | None = None
        self._text: list[str] = []

    def push(self, parts: Iterable[ReplyPart]) -> Iterator[BlockEvent]:
        """The events that these parts are."""
        for part in parts:
            if part.kind == "tool_name":
                yield from self._begin("tool_call", part.text)
                continue
            kind: BlockKind = "tool_call" if part.kind == "tool_arguments" else part.kind
            if kind != self._open:
                yield from self._begin(kind, "")
            self._text.append(part.text)
            yield BlockEvent("delta", self.num_blocks - 1, kind, part.text)

    def finish(self) -> Iterator[BlockEvent]:
        """The end of the reply ends the last block."""
        if self._open is not None:
            yield BlockEvent("stop", self.num_blocks - 1, self._open, "".join(self._text))
        self._open = None
        self._text = []

    def _begin(self, kind: BlockKind, name: str) -> Iterator[BlockEvent]:
        yield from self.finish()
        self._open = kind
        self.num_blocks += 1
        yield BlockEvent("start", self.num_blocks - 1, kind, name)
