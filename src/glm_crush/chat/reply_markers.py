"""The tokens that structure a reply: where reasoning and tool calls begin and end.

Above: the reply parser, the server and the grammars of tool calls. Below: the tokenizer. They are recognised by id
alone: the same characters spelled by other tokens are text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from glm_crush.tokenizer.tokenizer import Tokenizer

__all__ = ["Marker", "ReplyMarkers", "StartState"]

Marker = Literal["think", "/think", "tool_call", "/tool_call", "arg_key", "/arg_key", "arg_value", "/arg_value"]
StartState = Literal["reasoning", "answer", "open"]

_PAIRS: tuple[tuple[Marker, Marker], ...] = (
    ("think", "/think"),
    ("tool_call", "/tool_call"),
    ("arg_key", "/arg_key"),
    ("arg_value", "/arg_value"),
)
_LONGEST_TAIL = 8  # tokens of white space that may follow the last marker of a prompt


@dataclass(frozen=True)
class ReplyMarkers:
    """The markers a model has; one without any writes plain text.

    Attributes:
        ids: id of each marker. names: the reverse.
    """

    ids: Mapping[Marker, int]
    names: Mapping[int, Marker]

    @classmethod
    def of(cls, added_ids: Mapping[str, int]) -> ReplyMarkers:
        """The markers among a tokenizer's `added_ids`; a pair of which one is missing does not count."""
        pairs = [pair for pair in _PAIRS if all(f"<{marker}>" in added_ids for marker in pair)]
        ids = {marker: added_ids[f"<{marker}>"] for pair in pairs for marker in pair}
        return cls(ids, {token_id: marker for marker, token_id in ids.items()})

    @property
    def can_reason(self) -> bool:
        """Whether there are `<think>` and `</think>`."""
        return "think" in self.ids

    @property
    def tool_format(self) -> Literal["glm", "json"] | None:
        """How the model writes calls: keys and values in tags, JSON between `<tool_call>` tags, or in no known way."""
        if "tool_call" not in self.ids:
            return None
        return "glm" if "arg_key" in self.ids and "arg_value" in self.ids else "json"

    def start_state(self, prompt_token_ids: Sequence[int], tokenizer: Tokenizer) -> StartState:
        """Where a reply begins, from the end of the rendered prompt; white space after the last marker is skipped.

        Returns: "reasoning" after `<think>`, "answer" after `</think>`, else "open": the model may start to reason.
        """
        for token_id in reversed(prompt_token_ids[-_LONGEST_TAIL:]):
            marker = self.names.get(token_id)
            if marker == "think":
                return "reasoning"
            if marker == "/think":
                return "answer"
            if marker is not None or tokenizer.is_special(token_id) or tokenizer.piece(token_id).strip():
                break
        return "open"
