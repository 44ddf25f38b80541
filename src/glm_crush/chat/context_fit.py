"""Makes a conversation fit the context by the policy that the caller chose.

Above: the chat turn of the server, `LLM.chat`, `glm chat`. Below: `context_policy`, `conversation_summary`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from glm_crush.chat.context_policy import (
    TURNS_PER_JUMP,
    ContextPolicy,
    CountTokens,
    Fitted,
    fewest_dropped,
    flat,
    reply_reserve,
    split_turns,
    too_long,
    truncate,
    window,
)
from glm_crush.chat.conversation_summary import Elsewhere, Generate, Summariser, SummaryCache, with_summary
from glm_crush.types import ContextNote, Message

__all__ = ["fit_conversation", "run_at_once"]

Result = TypeVar("Result")

_LONGEST_SUMMARY = 400


async def fit_conversation(
    messages: Sequence[Message],
    policy: ContextPolicy,
    count: CountTokens,
    *,
    context_length: int,
    max_tokens: int | None,
    generate: Generate,
    cache: SummaryCache,
    salt: str = "",
    elsewhere: Elsewhere | None = None,
) -> Fitted:
    """The conversation as the model can read it, with a note of what was left out.

    Args:
        messages: the whole conversation.
        policy: "refuse" leaves it as it is; the engine refuses what is too long.
        count: tokens of messages as a prompt.
        context_length: largest prompt and reply.
        max_tokens: of the reply; None = no limit but the context.
        generate: asks the model for a summary.
        cache: summaries made before.
        salt: who shares them.
        elsewhere: where tokens are counted; None = here.

    Raises:
        ContextLengthError: system messages and last turn alone do not fit.
        RequestError, OverloadedError, EngineError: no summary could be made.
    """
    reserve = reply_reserve(context_length, max_tokens)
    if policy == "refuse":
        return Fitted(messages)
    elsewhere = elsewhere or _here
    if policy != "summarise":
        shorten = truncate if policy == "truncate" else window
        fitted: Fitted = await elsewhere(lambda: shorten(messages, count, context_length, reserve))
        return fitted
    max_summary = min(_LONGEST_SUMMARY, context_length // 8)
    summariser = Summariser(
        generate,
        count,
        elsewhere=elsewhere,
        budget=context_length - max_summary,
        max_tokens=max_summary,
        cache=cache,
        salt=salt,
    )
    head, turns = split_turns(messages)
    before, num_dropped = await elsewhere(
        lambda: _plan_summary(head, turns, count, context_length, reserve, max_summary)
    )
    if num_dropped == 0:
        return Fitted(messages)
    summary = await summariser.summary(turns[:num_dropped])
    kept = [*with_summary(head, summary), *flat(turns[num_dropped:])]
    num_tokens = await elsewhere(lambda: count(kept))
    if num_tokens > context_length - reserve:  # a text may have more tokens in its place than when it was drawn
        raise too_long(num_tokens, reserve, context_length)
    note = ContextNote(
        policy="summarise",
        context_length=context_length,
        num_tokens_before=before,
        num_tokens=num_tokens,
        dropped=tuple(range(len(head), len(head) + len(flat(turns[:num_dropped])))),
        summary=summary,
    )
    return Fitted(kept, note)


def _plan_summary(
    head: Sequence[Message],
    turns: Sequence[Sequence[Message]],
    count: CountTokens,
    context_length: int,
    reserve: int,
    max_summary: int,
) -> tuple[int, int]:
    """Tokens of the whole, and how many of the oldest turns must be summarised, a few at a time; 0 when all fits."""
    before, budget = count([*head, *flat(turns)]), context_length - reserve
    if before <= budget:
        return before, 0

    def size(dropped: int) -> int:
        return count([*with_summary(head, ""), *flat(turns[dropped:])]) + max_summary

    num_dropped = fewest_dropped(size, len(turns), budget, TURNS_PER_JUMP)
    if num_dropped == 0 or size(num_dropped) > budget:
        raise too_long(count([*head, *flat(turns[-1:])]), reserve, context_length)
    return before, num_dropped


async def _here(function: Callable[[], Any]) -> Any:
    return function()


def run_at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never has to wait, outside of any event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    work.close()
    raise AssertionError("the coroutine waited for something")
