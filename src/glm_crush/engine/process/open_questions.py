"""What has been asked of the engine and not been answered: grammars to compile, adapters to load and unload.

Above: the supervisor, whose thread alone uses this. What a child had not answered when it died the next is asked again,
but not for ever: a grammar that ends whoever compiles it would leave nobody to take requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

from glm_crush.engine.process.mailbox import AdapterLoad, AdapterUnload, Question
from glm_crush.engine.process.wire import CheckGrammar, FromParent, LoadAdapter, UnloadAdapter, WireError
from glm_crush.errors import EngineError

__all__ = ["OpenQuestions"]

_MAX_RUNS = 3  # children that may die while they have a question: once is bad luck, and so may be twice


class OpenQuestions:
    """Questions by number, in order of arrival.

    Attributes:
        adapters: that every child has from its start on: path by name.
    """

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self._questions: dict[int, Question] = {}
        self._num_runs: dict[int, int] = {}  # how often a child has been asked
        self._num_questions = 0

    def __iter__(self) -> Iterator[int]:
        return iter([*self._questions])

    def add(self, question: Question) -> int:
        """Take a question; returns its number."""
        self._num_questions += 1
        self._questions[self._num_questions] = question
        self._num_runs[self._num_questions] = 0
        return self._num_questions

    def ask(self, number: int) -> FromParent | None:
        """What to send to a child that takes it now; None when nobody waits for the answer any more."""
        asked, future = self._questions[number]
        if future.cancelled():
            self._forget(number)
            return None
        self._num_runs[number] += 1
        match asked:
            case AdapterLoad(name, path):
                return LoadAdapter(number, name, path)
            case AdapterUnload(name):
                return UnloadAdapter(number, name)
            case structured:
                return CheckGrammar(number, structured)

    def answer(self, number: int, reason: WireError | None) -> None:
        """The child has done what was asked, or says why it cannot."""
        asked, future = self._forget(number)
        if reason is not None:
            _fail(future, reason.exception())
            return
        if isinstance(asked, AdapterLoad):
            self.adapters[asked.name] = asked.path
        elif isinstance(asked, AdapterUnload):
            self.adapters.pop(asked.name, None)
        if future.set_running_or_notify_cancel():
            future.set_result(None)

    def after_death(self, reason: str) -> None:
        """The child is gone: what it was asked is asked of the next, unless too many have died of it."""
        for number in self:
            if self._num_runs[number] >= _MAX_RUNS:
                before = self._num_runs[number] - 1
                _, future = self._forget(number)
                _fail(future, EngineError(f"{reason}, as {before} before it did when asked for this; change it."))

    def end_all(self, error: EngineError) -> None:
        """Nobody will answer any of them."""
        for number in self:
            _, future = self._forget(number)
            _fail(future, error)

    def _forget(self, number: int) -> Question:
        del self._num_runs[number]
        return self._questions.pop(number)


def _fail(future: Future[None], error: Exception) -> None:
    if future.set_running_or_notify_cancel():  # else whoever asked has given up waiting
        future.set_exception(error)
