"""Where a reply reasons: the section between `<think>` and `</think>`, opened by the prompt or by the model.

Above: the reply parser. Below: the markers. The section ends at `</think>`, or at a tool call that the model makes
without closing it.
"""

from __future__ import annotations

from collections.abc import Sequence

from glm_crush.chat.reply_markers import Marker, ReplyMarkers, StartState

__all__ = ["ReasoningCounter", "ReasoningSection", "TrimmedText"]


class ReasoningSection:
    """Whether the reply is reasoning now.

    Args:
        start: where the reply begins. calls_end_it: tools are declared, so a call ends the section.
    """

    def __init__(self, start: StartState, *, calls_end_it: bool) -> None:
        self.active = start == "reasoning"
        self._calls_end_it = calls_end_it
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._text)

    def add(self, text: str) -> str:
        self._text.append(text)
        return text

    def switches(self, marker: Marker | None, *, answer_has_begun: bool) -> bool:
        """Take note of a marker; whether it only opens or closes the section and is not part of any text.

        A model may open the section before its answer has begun; later `<think>` is a word like any other. Tags
        that repeat what is so already are dropped.
        """
        if self.active:
            self.active = marker != "/think" and not (marker == "tool_call" and self._calls_end_it)
            return marker == "/think" or (marker == "think" and not self.text)
        if answer_has_begun or marker not in ("think", "/think"):
            return False
        self.active = marker == "think"
        return True


class ReasoningCounter:
    """Counts the tokens of the reasoning, its tags left out."""

    def __init__(self, markers: ReplyMarkers, start: StartState, *, calls_end_it: bool) -> None:
        self.num_tokens = 0
        self._names = markers.names
        self._active: bool | None = True if start == "reasoning" else None  # None: it has not begun
        self._ends = ("/think", "tool_call") if calls_end_it else ("/think",)

    def add(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids if self._active is not False else ():
            marker = self._names.get(token_id)
            if marker == "think" and self._active is None:
                self._active = True
            elif marker in self._ends and self._active:
                self._active = False
                return
            elif self._active:
                self.num_tokens += 1


class TrimmedText:
    """Text without the line feeds that templates put around it: those at its start are dropped, later ones wait
    until more text shows that they are inside.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is certain now."""
        text = self._held + text
        if not self.has_begun:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        self.has_begun = self.has_begun or bool(body)
        return body

    def flush(self) -> str:
        """The line feeds held back."""
        held, self._held = self._held, ""
        return held
