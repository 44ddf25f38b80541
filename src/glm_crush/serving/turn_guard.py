"""The place of the guard in a turn: what goes in is checked before it is rendered, what comes out before it is sent.

Above: `chat_turn` and the adapters that generate without it, so that every protocol is guarded. Below: the guard,
behind protocols; without one nothing of this runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from glm_crush.chat.reply_part import ReplyPart, merge_parts
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.deltas import check_delta
from glm_crush.types import Message, RequestOutput

if TYPE_CHECKING:
    from glm_crush.serving.chat_turn import TurnDelta, TurnRequest
    from glm_crush.serving.served_model import Generation, ServedModel, TextCodec
    from glm_crush.serving.turn_result import TurnEnd

__all__ = [
    "ReplyGuard",
    "TurnGuard",
    "guarded_deltas",
    "guarded_output",
    "guarded_parts",
    "guarded_prompt",
    "guarded_request",
    "guarded_text",
    "refuse_logprobs",
]


class ReplyGuard(Protocol):
    """One reply on its way out.

    Attributes:
        is_blocked: nothing more of it may be sent. is_altered: what was let through is not what was written.
    """

    @property
    def is_blocked(self) -> bool: ...

    @property
    def is_altered(self) -> bool: ...

    def push(self, parts: Iterable[ReplyPart]) -> list[ReplyPart]:
        """What of it can be sent by now."""
        ...

    async def finish(self) -> list[ReplyPart]:
        """The rest, at its end."""
        ...


class TurnGuard(Protocol):
    """What is done about requests and replies of whoever is admitted."""

    async def messages(self, messages: Sequence[Message], parameter: str) -> Sequence[Message]:
        """The messages as the model may see them.

        Raises:
            ContentBlockedError: it may not see them.
        """
        ...

    async def text(self, text: str, parameter: str, role: str = "user") -> str:
        """A text as the model may see it. Raises as `messages`."""
        ...

    async def is_clean(self, text: str) -> bool:
        """Whether nothing would be found in what a user says; nothing is written down."""
        ...

    def reply(self) -> ReplyGuard | None:
        """For one reply; None = replies go out as they are."""
        ...

    @property
    def alters_replies(self) -> bool:
        """Whether a reply may go out other than it was written."""
        ...

    def fingerprint(self) -> str:
        """Changes when the same request could be answered otherwise."""
        ...


async def guarded_request(guard: TurnGuard, model: ServedModel, request: TurnRequest) -> TurnRequest:
    """The request as the model may see it.

    Raises:
        ContentBlockedError: it may not. InvalidParameterError: it asks for what a guarded reply cannot have.
    """
    names = request.names
    refuse_logprobs(guard, asked=request.params.logprobs is not None)
    messages = await guard.messages(request.messages, names.messages)
    wish, prefill, ids = request.wish, request.prefill, request.context_token_ids
    if prefill:
        prefill = await guard.text(prefill, names.messages, "assistant")
    if wish.tools:
        wish = replace(wish, tools=[await _described(guard, tool, names.tools) for tool in wish.tools])
    if ids:
        ids = await guarded_prompt(guard, model, ids, names.messages)
    return replace(request, messages=messages, prefill=prefill, wish=wish, context_token_ids=ids)


async def _described(guard: TurnGuard, value: Any, parameter: str) -> Any:
    """A tool's definition with its descriptions as the model may see them; names and types are not for reading."""
    if isinstance(value, Mapping):
        made = {}
        for key, item in value.items():
            if key == "description" and isinstance(item, str):
                made[key] = await guard.text(item, parameter, "system")
            else:
                made[key] = await _described(guard, item, parameter)
        return made
    if isinstance(value, list):
        return [await _described(guard, item, parameter) for item in value]
    return value


async def guarded_prompt(guard: TurnGuard, model: ServedModel, ids: Sequence[int], parameter: str) -> Sequence[int]:
    """Token ids of a prompt; the same ones, unless its text has to be another. Raises as `TurnGuard.messages`."""
    text = model.codec.decode(ids)
    checked = await guard.text(text, parameter)
    return ids if checked == text else model.codec.encode(checked, add_special_tokens=False)


def refuse_logprobs(guard: TurnGuard | None, *, asked: bool) -> None:
    """Refuse probabilities of tokens that may have to be taken out.

    Raises:
        InvalidParameterError: they are asked for and the guard may change replies.
    """
    if asked and guard is not None and guard.alters_replies:
        raise InvalidParameterError(
            "logprobs are asked for, which would show what this server's guard takes out of replies; leave them out",
            parameter="logprobs",
        )


async def guarded_deltas(
    guard: TurnGuard, deltas: AsyncGenerator[TurnDelta, None], codec: TextCodec, n: int
) -> AsyncGenerator[TurnDelta, None]:
    """What of a turn can be sent; once all `n` replies have ended or are blocked, the turn is aborted.

    Token ids come with the end of a reply, since they would show what is held back.
    """
    replies: dict[int, _Reply] = {}
    num_open = n
    try:
        async for delta in deltas:
            if delta.index not in replies:
                replies[delta.index] = _Reply(guard.reply())
            reply = replies[delta.index]
            if reply.ended():
                continue
            if reply.guard is None:
                yield delta
                continue
            parts = await reply.take(delta.parts, delta.token_ids, is_last=delta.finish_reason is not None)
            ids: Sequence[int] = ()
            if reply.ended():
                num_open -= 1
                ids = reply.ids(codec)
            if reply.guard.is_blocked:
                delta = replace(delta, finish_reason="content_filter", stop_reason=None)
            yield replace(delta, parts=parts, token_ids=tuple(ids))
            if not num_open:
                return
    finally:
        await deltas.aclose()


class _Reply:
    """One reply of several, and what has been sent of it."""

    def __init__(self, guard: ReplyGuard | None) -> None:
        self.guard = guard
        self._has_ended = False
        self._ids: list[int] = []
        self._text: list[str] = []

    def ended(self) -> bool:
        """Whether nothing more of it is sent."""
        return self._has_ended

    async def take(self, parts: Iterable[ReplyPart], ids: Sequence[int], *, is_last: bool) -> list[ReplyPart]:
        assert self.guard is not None
        sent = self.guard.push(parts)
        if is_last and not self.guard.is_blocked:
            sent += await self.guard.finish()
        self._has_ended = is_last or self.guard.is_blocked
        self._ids += ids
        self._text += (part.text for part in sent)
        return merge_parts(sent)

    def ids(self, codec: TextCodec) -> Sequence[int]:
        """Of what was sent."""
        assert self.guard is not None
        if self.guard.is_altered or self.guard.is_blocked:
            return codec.encode("".join(self._text), add_special_tokens=False)
        return self._ids


async def guarded_parts(
    guard: TurnGuard, parts: Sequence[ReplyPart], reason: TurnEnd
) -> tuple[Sequence[ReplyPart], TurnEnd, bool]:
    """A whole reply as it may be sent, why it ends, and whether anything of it is another."""
    reply = guard.reply()
    if reply is None:
        return parts, reason, False
    sent = reply.push(parts)
    if not reply.is_blocked:
        sent += await reply.finish()
    is_altered = reply.is_blocked or reply.is_altered
    return merge_parts(sent), "content_filter" if reply.is_blocked else reason, is_altered


def guarded_output(output: RequestOutput, texts: Mapping[int, str], codec: TextCodec) -> RequestOutput:
    """What the engine said, with the `texts` that were sent instead, by the number of the reply."""
    outputs = tuple(
        replace(
            reply,
            text=texts[reply.index],
            token_ids=tuple(codec.encode(texts[reply.index], add_special_tokens=False)),
            logprobs=None,
        )
        if reply.index in texts
        else reply
        for reply in output.outputs
    )
    return replace(output, outputs=outputs)


def guarded_text(model: ServedModel, generation: Generation, n: int) -> Generation:
    """A generation that no turn parses, as it may be sent. Token ids stay, to be counted; see `alters_replies`."""
    if model.guard is None:
        return generation
    return replace(generation, deltas=_guarded_text(model.guard, generation.deltas, n))


async def _guarded_text(
    guard: TurnGuard, deltas: AsyncGenerator[RequestDelta, None], n: int
) -> AsyncGenerator[RequestDelta, None]:
    replies: dict[int, _Reply] = {}
    num_open = n
    try:
        async for delta in deltas:
            check_delta(delta)
            if delta.index not in replies:
                replies[delta.index] = _Reply(guard.reply())
            reply = replies[delta.index]
            if reply.ended():
                continue
            if reply.guard is None:
                yield delta
                continue
            given = (ReplyPart("content", delta.text),) if delta.text else ()
            parts = await reply.take(given, (), is_last=delta.finish_reason is not None)
            num_open -= reply.ended()
            if reply.guard.is_blocked:
                delta = replace(delta, finish_reason="content_filter", stop_reason=None)
            yield replace(delta, text="".join(part.text for part in parts))
            if not num_open:
                return
    finally:
        await deltas.aclose()
