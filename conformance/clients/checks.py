"""The protocol of the client scripts: each check is a sentence and a function; its outcome is one JSON line.

Knows nothing of this project's code: it runs in the clients' environments. The last argument of a script is a JSON
object that says where the servers are.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["Checks", "NotApplicableError", "target"]


class NotApplicableError(Exception):
    """Raised by a check that asks for what the server does not claim to have; says what."""


def target() -> dict[str, str]:
    """The servers: url, glm_url, model, glm_model, embedding_model, reranker, grpc, home."""
    return json.loads(sys.argv[-1])


class Checks:
    """The checks of one script, in order."""

    def __init__(self) -> None:
        self._checks: list[tuple[str, Callable[[], Any]]] = []

    def check(self, sentence: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """Decorates a function that raises unless the sentence is true."""

        def add(function: Callable[[], Any]) -> Callable[[], Any]:
            self._checks.append((sentence, function))
            return function

        return add

    def run(self) -> None:
        """All of them; a line for each."""
        for sentence, function in self._checks:
            outcome, reason = "passed", ""
            try:
                function()
            except NotApplicableError as why:
                outcome, reason = "not applicable", str(why)
            except Exception as error:
                outcome, reason = "failed", _place(error)
            print(json.dumps({"check": sentence, "outcome": outcome, "reason": reason}), flush=True)


def _place(error: Exception) -> str:
    """What went wrong, and in which line of the script."""
    script = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == sys.argv[0]]
    line = f" (line {script[-1].lineno}: {script[-1].line})" if script else ""
    return f"{type(error).__name__}: {str(error)[:300]}{line}"
