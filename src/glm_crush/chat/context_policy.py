"""What becomes of a conversation that is longer than the context: which turns stay, and what the caller is told.

Above: `fit_conversation`, which also summarises. This module knows messages and a function that counts tokens, neither
templates nor models. A *turn* is a user's message with all that follows it up to the next: replies, calls and their
results, which make no sense without one another. System messages at the start are no turn; they always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from glm_crush.config import ContextPolicy
from glm_crush.errors import ContextLengthError
from glm_crush.types import ContextNote, Message

__all__ = [
    "TURNS_PER_JUMP",
    "ContextPolicy",
    "CountTokens",
    "Fitted",
    "cut_middle",
    "fewest_dropped",
    "flat",
    "reply_reserve",
    "split_turns",
    "too_long",
    "truncate",
    "window",
]

CountTokens = Callable[[Sequence[Message]], int]

TURNS_PER_JUMP = 4
"""Turns that leave together, so that the beginning of the prompt stays the same, and cached, for several turns."""

_MOST_RESERVED = 1024
_SHORTEST_CUT = 40  # characters of a message that are worth keeping


@dataclass(frozen=True)
class Fitted:
    """A conversation that fits; `note` is None where nothing had to be done."""

    messages: Sequence[Message]
    note: ContextNote | None = None


def reply_reserve(context_length: int, max_tokens: int | None) -> int:
    """Room that is kept for the reply: what it may take, or without a limit a quarter of the context, 1,024 at most.

    More than the whole context holds is no limit: such a reply ends where the context does.
    """
    if max_tokens is None or max_tokens >= context_length:
        return min(context_length // 4, _MOST_RESERVED)
    return max_tokens


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System messages at the start, and the turns; what stands before the first user's message belongs to its turn."""
    num_head = 0
    while num_head < len(messages) and messages[num_head].get("role") == "system":
        num_head += 1
    turns: list[list[Message]] = []
    for message in messages[num_head:]:
        begins = message.get("role") == "user" and any(m.get("role") == "user" for m in turns[-1]) if turns else True
        if begins:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:num_head]), turns


def truncate(messages: Sequence[Message], count: CountTokens, context_length: int, reserve: int) -> Fitted:
    """Leave out as few of the oldest turns as will do; then the middle of the last turn's longest text.

    Raises:
        ContextLengthError: not even that fits; states the numbers.
    """
    return _shorten(messages, count, context_length, reserve, "truncate", step=1)


def window(messages: Sequence[Message], count: CountTokens, context_length: int, reserve: int) -> Fitted:
    """Leave out the oldest turns, a few at a time: the window stands still for some turns, then jumps.

    Raises:
        ContextLengthError: system messages and last turn alone do not fit; states the numbers.
    """
    return _shorten(messages, count, context_length, reserve, "window", step=TURNS_PER_JUMP)


def _shorten(
    messages: Sequence[Message],
    count: CountTokens,
    context_length: int,
    reserve: int,
    policy: Literal["truncate", "window"],
    *,
    step: int,
) -> Fitted:
    before, budget = count(messages), context_length - reserve
    if before <= budget:
        return Fitted(messages)
    head, turns = split_turns(messages)
    num_dropped = fewest_dropped(lambda dropped: count([*head, *flat(turns[dropped:])]), len(turns), budget, step)
    kept = [*head, *flat(turns[num_dropped:])]
    shortened: int | None = None
    num_tokens = count(kept)
    if num_tokens > budget:
        place = None if policy == "window" else _cut_longest(kept, len(head), count, budget)
        if place is None:
            raise too_long(num_tokens, reserve, context_length)
        shortened = place + len(messages) - len(kept)
    dropped = tuple(range(len(head), len(messages) - len(kept) + len(head)))
    return Fitted(
        kept,
        ContextNote(
            policy=policy,
            context_length=context_length,
            num_tokens_before=before,
            num_tokens=count(kept),
            dropped=dropped,
            shortened=shortened,
        ),
    )


def fewest_dropped(size: Callable[[int], int], num_turns: int, budget: int, step: int) -> int:
    """How many of the oldest turns must go: the fewest in steps of `step` that fit, else all but the last.

    `size` says how many tokens there are when that many turns are dropped; it falls with it.
    """
    choices: list[int] = [*range(0, num_turns - 1, step), max(0, num_turns - 1)]
    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high) // 2
        if size(choices[middle]) <= budget:
            high = middle
        else:
            low = middle + 1
    return choices[low]


def flat(turns: Sequence[Sequence[Message]]) -> list[Message]:
    """The messages of turns."""
    return [message for turn in turns for message in turn]


def too_long(num_tokens: int, reserve: int, context_length: int) -> ContextLengthError:
    """The refusal when what must stay does not fit."""
    return ContextLengthError(
        f"System messages and the last turn have {num_tokens} tokens and {reserve} are kept for the reply; the context "
        f"holds {context_length}. Shorten them, lower max_tokens or raise the context length.",
        parameter="messages",
    )


def _cut_longest(kept: list[Message], first: int, count: CountTokens, budget: int) -> int | None:
    """Cut the longest text of `kept[first:]` as little as will do, in place; returns its position, or None."""
    texts = {i: content for i, m in enumerate(kept) if i >= first and isinstance(content := m.get("content"), str)}
    if not texts:
        return None
    place = max(texts, key=lambda i: len(texts[i]))
    message, text = kept[place], texts[place]
    low, high = 0, len(text)  # fits at low if anywhere; does not at high
    while low + 1 < high:
        middle = (low + high) // 2
        kept[place] = {**message, "content": cut_middle(text, middle)}
        if count(kept) <= budget:
            low = middle
        else:
            high = middle
    if low < _SHORTEST_CUT:
        return None
    kept[place] = {**message, "content": cut_middle(text, low)}
    return place


def cut_middle(text: str, num_kept: int) -> str:
    """The beginning and the end of a text, `num_kept` characters in all, with a mark between them."""
    if num_kept >= len(text):
        return text
    num_front = (num_kept + 1) // 2
    back = text[len(text) - (num_kept - num_front) :]
    return f"{text[:num_front]}\n[... {len(text) - num_kept} characters left out ...]\n{back}"
