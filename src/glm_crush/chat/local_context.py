"""Conversations longer than the context for a model in this process, whose summaries are calls like any other.

Above: `llm`, `glm chat`. Below: `context_fit`, the prompt codec, the reply format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from glm_crush.chat.context_fit import fit_conversation, run_at_once
from glm_crush.chat.context_policy import ContextPolicy, Fitted
from glm_crush.chat.conversation_summary import SUMMARY_SAMPLING, SummaryCache
from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat, ReplyWish
from glm_crush.types import Message, RequestOutput, SamplingParams

__all__ = ["LocalContext"]


class LocalContext:
    """Fits conversations, and keeps their summaries.

    Args:
        codec: renders and counts.
        run: has the model complete token ids.
        context_length: largest prompt and reply.
    """

    def __init__(
        self, codec: PromptCodec, run: Callable[[Sequence[int], SamplingParams], RequestOutput], context_length: int
    ) -> None:
        self._codec = codec
        self._replies = ReplyFormat(codec)
        self._run = run
        self._context_length = context_length
        self._summaries = SummaryCache()

    def fit(
        self,
        messages: Sequence[Message],
        policy: ContextPolicy,
        *,
        max_tokens: int | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any],
    ) -> Fitted:
        """The conversation as the model can read it; see `fit_conversation`.

        Raises:
            ContextLengthError: system messages and last turn alone do not fit.
            EngineError: no summary could be made.
        """
        return run_at_once(
            fit_conversation(
                messages,
                policy,
                lambda some: len(self._codec.render(some, tools=tools, **variables)),
                context_length=self._context_length,
                max_tokens=max_tokens,
                generate=self._answer,
                cache=self._summaries,
            )
        )

    async def _answer(self, messages: Sequence[Message], max_tokens: int) -> str:
        """What the model says, without reasoning."""
        prompt = self._codec.render(messages, enable_thinking=False)
        reply = self._run(prompt, replace(SUMMARY_SAMPLING, max_tokens=max_tokens)).outputs[0]
        parser = self._replies.parser(prompt, ReplyWish())
        parts = parser.push(reply.token_ids, reply.text, reply.finish_reason, reply.stop_reason)
        return "".join(part.text for part in parts if part.kind == "content")
