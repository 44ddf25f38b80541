"""A chat backend that answers from a script."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from glm_crush.cli.backend import ReplyStats, Turn
from glm_crush.types import SamplingParams

__all__ = ["ScriptedBackend"]


@dataclass
class ScriptedBackend:
    """Answers every turn with the words of `script(turn)`.

    Attributes:
        interrupt_after: words after which Ctrl-C is pressed. error: raised instead of an answer.
    """

    script: Callable[[Turn], str] = lambda turn: f"you said {turn.messages[-1]['content']}"
    interrupt_after: int | None = None
    error: Exception | None = None
    name: str = "scripted"
    default_params: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.7, max_tokens=None))
    turns: list[Turn] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        return {"model": self.name, "context": "100 tokens"}

    def reply(self, turn: Turn) -> Generator[str, None, ReplyStats]:
        self.turns.append(turn)
        if self.error is not None:
            raise self.error
        for number, word in enumerate(self.script(turn).split(" ")):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            yield word if number == 0 else f" {word}"
        return ReplyStats(
            prompt_tokens=3,
            cached_tokens=1,
            completion_tokens=5,
            time_to_first_token_seconds=0.5,
            elapsed_seconds=1.5,
            finish_reason="stop",
        )
