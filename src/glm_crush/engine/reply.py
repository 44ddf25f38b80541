"""One reply as text: decodes tokens, decides when the reply ends.

Above: the engine. Below: a detokeniser and `stop`. This module knows neither queues nor arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from glm_crush.engine.grammar import GrammarState
from glm_crush.engine.request import Request
from glm_crush.engine.stop import StopStrings
from glm_crush.types import FinishReason

__all__ = ["Detokenizer", "MakeDetokenizer", "Reply"]


class Detokenizer(Protocol):
    """Turns tokens into text piece by piece; a piece never ends inside a character."""

    def add(self, token_id: int) -> str:
        """The text that this token completes."""

    def finish(self) -> str:
        """What is left when no more tokens come."""


MakeDetokenizer = Callable[[Sequence[int], bool], Detokenizer]
"""Called with the ids of the prompt, whose text the reply continues, and `skip_special_tokens`."""


class Reply:
    """The text side of a `Request`: what to emit for each token and whether it was the last.

    Attributes:
        finish_reason, stop_reason: set by the `push` that ends the reply.
    """

    __slots__ = ("_detokenizer", "_grammar", "_stop_strings", "finish_reason", "request", "stop_reason")

    def __init__(
        self, request: Request, make_detokenizer: MakeDetokenizer | None, grammar: GrammarState | None = None
    ) -> None:
        self.request = request
        self._grammar = grammar
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self._detokenizer = make_detokenizer and make_detokenizer(
            request.token_ids[: request.num_prompt_tokens], request.params.skip_special_tokens
        )
        self._stop_strings = StopStrings(request.params.stop)

    def push(self, token_id: int) -> str:
        """Take the request's newest token; returns the text that is now certain.

        A stop id and a stop string end the reply from `min_tokens` on and are not part of its text; the end of its
        grammar ends it at once.
        """
        request = self.request
        num_output_tokens = request.num_output_tokens
        may_stop = num_output_tokens >= request.params.min_tokens
        if may_stop and token_id in request.stop_token_ids:
            return self._end("stop", token_id if token_id in request.params.stop_token_ids else None)
        text = "" if self._detokenizer is None else self._detokenizer.add(token_id)
        if may_stop:
            text = self._stop_strings.push(text)
            if self._stop_strings.matched is not None:
                self.finish_reason, self.stop_reason = "stop", self._stop_strings.matched
                return text
        if self._grammar is not None:
            self._grammar.accept(token_id)
            if self._grammar.is_complete:
                return text + self._end("stop", None)
        if num_output_tokens >= request.max_tokens:
            return text + self._end("length", None)
        return text

    def abort(self) -> str:
        """End the reply where it stands; returns the text held back."""
        return self._end("abort", None)

    def _end(self, reason: FinishReason, stop_reason: int | None) -> str:
        """Release what the detokeniser and the stop strings hold back; it may still complete a stop string."""
        rest = "" if self._detokenizer is None else self._detokenizer.finish()
        text = self._stop_strings.push(rest) + self._stop_strings.flush()
        self.finish_reason, self.stop_reason = reason, stop_reason
        if self._stop_strings.matched is not None:
            self.finish_reason, self.stop_reason = "stop", self._stop_strings.matched
        return text
