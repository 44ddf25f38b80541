"""Conversations longer than the context, as a server deals with them: by the request's policy or its own.

Above: `chat_turn`, whose turn it shortens. Below: `chat.context_fit`. A summary is a request of its own to the same
model, beside all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from glm_crush.chat.context_fit import fit_conversation
from glm_crush.chat.context_policy import ContextPolicy, Fitted, reply_reserve
from glm_crush.serving.served_model import ChatPrompt, ServedModel
from glm_crush.types import ContextNote, Message

__all__ = ["context_headers", "context_usage", "fit_messages"]


async def fit_messages(
    model: ServedModel,
    messages: Sequence[Message],
    policy: ContextPolicy,
    *,
    max_tokens: int | None,
    make_prompt: Callable[[Sequence[Message]], ChatPrompt],
    ask: Callable[[Sequence[Message], int], Awaitable[str]],
) -> Fitted:
    """The messages as the model can read them; see `fit_conversation`.

    Args:
        model: counts the tokens, and keeps summaries.
        messages: the whole conversation.
        policy: what to do if they are too many.
        max_tokens: of the reply.
        make_prompt: what the template gets of messages, tools and switches included.
        ask: has the model answer messages in so many tokens.
    """
    if policy == "refuse":
        return Fitted(messages)
    whole = len(await model.encode_chat(make_prompt(messages)))
    if whole <= model.context_length - reply_reserve(model.context_length, max_tokens):
        return Fitted(messages)
    return await fit_conversation(
        messages,
        policy,
        lambda some: len(model.render(make_prompt(some))),
        context_length=model.context_length,
        max_tokens=max_tokens,
        generate=ask,
        cache=model.summaries,
        elsewhere=asyncio.to_thread,
    )


def context_usage(note: ContextNote | None) -> dict[str, Any]:
    """What `usage` says of a conversation that was shortened; nothing of others."""
    if note is None:
        return {}
    return {
        "context": {
            "policy": note.policy,
            "context_length": note.context_length,
            "prompt_tokens_before": note.num_tokens_before,
            "prompt_tokens": note.num_tokens,
            "dropped_messages": list(note.dropped),
            "shortened_message": note.shortened,
            "summary": note.summary,
        }
    }


def context_headers(note: ContextNote | None) -> dict[str, str]:
    """The same in one line, for those who do not read bodies."""
    return {} if note is None else {"x-context": note.describe()}
