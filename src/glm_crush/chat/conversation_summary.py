"""Summaries of the older turns of a conversation, made by the model itself and used again as the conversation grows.

Above: `context_fit`. Below: `context_policy`. A summary covers whole groups of turns. The next one is made of the
summary before and the turns that came since, so each turn is read once, however long the conversation becomes.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from glm_crush.chat.context_policy import TURNS_PER_JUMP, CountTokens, cut_middle
from glm_crush.errors import ContextLengthError
from glm_crush.types import Message, SamplingParams

__all__ = ["SUMMARY_SAMPLING", "Elsewhere", "Generate", "Summariser", "SummaryCache", "with_summary"]

Elsewhere = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function that takes a while where it holds up nobody, such as another thread."""

Generate = Callable[[Sequence[Message], int], Awaitable[str]]
"""Called with messages and a limit of tokens; returns the model's answer as text, without reasoning."""

SUMMARY_SAMPLING = SamplingParams(temperature=0.0, repetition_penalty=1.1)
"""The likeliest words, but no loops, which small models fall into."""

_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool result", "system": "System"}
# Small models do what stands last, and go on with a conversation that is not quoted.
_OPENING = "Here is a conversation between a user and an assistant:"
_TASK = (
    "Summarise the conversation above for somebody who will go on with it. Keep names, numbers, facts, decisions, "
    "wishes and open questions; leave out greetings and asides. Write plain sentences and nothing but the summary."
)
_HEADING = "Summary of the conversation so far:"


class SummaryCache:
    """Summaries by what they cover; the ones used longest ago give way."""

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[str, str] = OrderedDict()

    def get(self, key: str) -> str | None:
        """The summary, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: str, summary: str) -> None:
        self._entries[key] = summary
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


class Summariser:
    """Makes the summaries of one conversation.

    Args:
        generate: asks the model.
        count: tokens of messages as a prompt.
        elsewhere: where to count.
        budget: tokens that a prompt may have.
        max_tokens: longest summary.
        cache: shared by conversations.
        salt: only conversations of the same salt share summaries.
    """

    def __init__(
        self,
        generate: Generate,
        count: CountTokens,
        *,
        elsewhere: Elsewhere,
        budget: int,
        max_tokens: int,
        cache: SummaryCache,
        salt: str = "",
    ) -> None:
        self.max_tokens = max_tokens
        self._generate = generate
        self._count = count
        self._elsewhere = elsewhere
        self._budget = budget
        self._cache = cache
        self._salt = salt

    async def summary(self, turns: Sequence[Sequence[Message]]) -> str:
        """What stands for these turns, the oldest of their conversation.

        Raises:
            ContextLengthError: the context has no room for the instructions.
            RequestError, OverloadedError, EngineError: the model could not be asked.
        """
        ends = [*range(TURNS_PER_JUMP, len(turns), TURNS_PER_JUMP), len(turns)]
        keys = [self._key(turns[:end]) for end in ends]
        summary, begin, done = "", 0, 0
        for place in reversed(range(len(ends))):
            cached = self._cache.get(keys[place])
            if cached is not None:
                summary, begin, done = cached, ends[place], place + 1
                break
        for place in range(done, len(ends)):
            text = _transcript(turns[begin : ends[place]])
            task: list[Message] = await self._elsewhere(partial(self._task, summary, text))
            summary = (await self._generate(task, self.max_tokens)).strip()
            self._cache.put(keys[place], summary)
            begin = ends[place]
        return summary

    def _task(self, summary: str, text: str) -> list[Message]:
        """The request for a summary, its text cut in the middle where it is too long itself."""
        before = f"{_HEADING}\n{summary}\n\n" if summary else ""

        def task(num_kept: int) -> list[Message]:
            quoted = f'"""\n{cut_middle(text, num_kept)}\n"""'
            return [{"role": "user", "content": f"{before}{_OPENING}\n\n{quoted}\n\n{_TASK}"}]

        if self._count(task(len(text))) <= self._budget:
            return task(len(text))
        if self._count(task(0)) > self._budget:
            raise ContextLengthError(
                f"A summary of the conversation needs {self._count(task(0))} tokens for its instructions and "
                f"{self.max_tokens} for itself, which is too much for this context. "
                "Choose another context_policy or raise the context length.",
                parameter="context_policy",
            )
        low, high = 0, len(text)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._count(task(middle)) <= self._budget else (low, middle)
        return task(low)

    def _key(self, turns: Sequence[Sequence[Message]]) -> str:
        content = json.dumps([self._salt, self.max_tokens, turns], ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def with_summary(head: Sequence[Message], summary: str) -> list[Message]:
    """The system messages with a summary behind them; one of their own if there are none."""
    text = f"{_HEADING}\n{summary}"
    if not head:
        return [{"role": "system", "content": text}]
    *others, last = head
    return [*others, {**last, "content": f"{last.get('content') or ''}\n\n{text}"}]


def _transcript(turns: Sequence[Sequence[Message]]) -> str:
    lines = []
    for turn in turns:
        for message in turn:
            content = message.get("content")
            text = content if isinstance(content, str) else "" if content is None else json.dumps(content)
            calls = message.get("tool_calls")
            if calls:
                text += f" [calls {json.dumps([call.get('function') for call in calls], ensure_ascii=False)}]"
            lines.append(f"{_SPEAKERS.get(message.get('role', ''), 'Other')}: {text}")
    return "\n".join(lines)
