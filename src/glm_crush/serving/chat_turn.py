"""One turn of a chat, whatever protocol asked for it: from messages to parts of replies.

Above: the protocol adapters, each of which makes a `TurnRequest` of what its clients send and its own events of what
comes back. Below: a served model, the reply format, the reply parser. It knows no protocol and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from glm_crush.chat.context_policy import ContextPolicy
from glm_crush.chat.conversation_summary import SUMMARY_SAMPLING
from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.reply_part import ReplyPart
from glm_crush.engine.output import OutputCollector, PromptProgress, RequestDelta, RequestStats
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.cache_usage import cache_usage
from glm_crush.serving.client_names import client_names
from glm_crush.serving.deltas import check_delta
from glm_crush.serving.served_model import ChatPrompt, ServedModel
from glm_crush.serving.turn_context import context_usage, fit_messages
from glm_crush.serving.turn_guard import (
    guarded_deltas,
    guarded_output,
    guarded_parts,
    guarded_prompt,
    guarded_request,
    refuse_logprobs,
)
from glm_crush.serving.turn_result import TurnEnd, TurnReply, TurnResult, turn_reply
from glm_crush.types import CacheReport, ContextNote, Message, SamplingParams, StructuredOutput, TokenLogprobs, Usage

__all__ = ["ChatTurn", "ParameterNames", "TurnDelta", "TurnRequest", "prepare_turn"]

_RESERVED_VARIABLES = ("messages", "tools", "add_generation_prompt", "prefill")


@dataclass(frozen=True, kw_only=True)
class ParameterNames:
    """What a protocol calls the parts of a request, for refusals that name them."""

    messages: str = "messages"
    tools: str = "tools"
    answer: str = "response_format"
    variables: str = "chat_template_kwargs"


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """What a client wants.

    Attributes:
        messages: in the OpenAI shape, text only. wish: tools, and what the answer must look like.
        variables: switches of the chat template, such as `enable_thinking`.
        context_policy: what becomes of messages that do not fit; None = as the server is set.
        prefill: how the reply begins already; what is generated goes on from there.
        context_token_ids: tokens before the rendered conversation, such as those of an earlier turn.
        max_reasoning_tokens: after so many tokens of reasoning it ends and the answer begins; None = no bound.
        names: what to call the parameters in a refusal.
    """

    messages: Sequence[Message]
    params: SamplingParams
    wish: ReplyWish = field(default_factory=ReplyWish)
    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    context_policy: ContextPolicy | None = None
    prefill: str = ""
    context_token_ids: Sequence[int] = ()
    max_reasoning_tokens: int | None = None
    names: ParameterNames = field(default_factory=ParameterNames)


@dataclass(frozen=True, slots=True)
class TurnDelta:
    """What one step added to one reply.

    Attributes:
        index: of the reply among the `n` of the request.
        parts: reasoning, content and tool calls, in order; neighbours of one kind are joined. A tool's name begins a
            call, and the call ends with the next part that is not its arguments, or with the reply.
        logprobs: of the tokens of this step, if asked for.
        finish_reason: set in the last delta of a reply; "tool_calls" when it ended in order and holds calls.
        stop_reason: the stop string or token id that ended it. stats: its times, in the last delta.
        token_ids: of this step, those of tags and the end included. progress: of the prompt, alone in its delta.
    """

    index: int
    parts: Sequence[ReplyPart]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: TurnEnd | None = None
    stop_reason: str | int | None = None
    stats: RequestStats | None = None
    token_ids: tuple[int, ...] = ()
    progress: PromptProgress | None = None


async def prepare_turn(model: ServedModel, request: TurnRequest) -> ChatTurn:
    """Render, encode and check everything; what can be refused before the engine sees it is refused here.

    A grammar is compiled by the engine when the turn is queued.

    Raises:
        InvalidParameterError: the wishes cannot be had together or not from this model; names the parameter.
        TemplateError: the template refuses the conversation, or the model has none.
        ContextLengthError: the policy cannot make the conversation fit.
        ContentBlockedError: the model may not see it.
    """
    if model.guard is not None:
        request = await guarded_request(model.guard, model, request)
    request, note = await _fitted(model, request)
    prompt_ids = await model.encode_chat(_prompt(model, request))
    if request.context_token_ids:
        prompt_ids = _continued(model, request.context_token_ids, prompt_ids)
    params = await _with_form(model, request, prompt_ids)
    return ChatTurn(model, request, prompt_ids, params, note)


async def prepare_text(
    model: ServedModel,
    prompt: str | Sequence[int],
    params: SamplingParams,
    *,
    answer: StructuredOutput | None = None,
    names: ParameterNames | None = None,
) -> ChatTurn:
    """A turn without a template: the prompt, text or token ids, is taken as it is, and so is the reply.

    Raises:
        InvalidParameterError: the prompt is empty, or the model cannot be held to the answer's form.
        ContentBlockedError: the model may not see it.
    """
    names = names or ParameterNames(messages="prompt")
    if model.guard is not None:
        refuse_logprobs(model.guard, asked=params.logprobs is not None)
    if isinstance(prompt, str):
        text = prompt if model.guard is None else await model.guard.text(prompt, names.messages)
        prompt_ids: Sequence[int] = await model.encode_text(text)
    else:
        prompt_ids = model.check_token_ids(prompt, names.messages)
        if model.guard is not None:
            prompt_ids = await guarded_prompt(model.guard, model, prompt_ids, names.messages)
    if not prompt_ids:
        raise InvalidParameterError(f"{names.messages} is empty; give at least one token", parameter=names.messages)
    request = TurnRequest(messages=(), params=params, names=names)
    if answer is not None:
        model.check_holds_forms(names.answer)
        params = replace(params, structured=answer)
    return ChatTurn(model, request, prompt_ids, params, parses=False)


class ChatTurn:
    """A prepared turn. It is queued when its first delta or its result is asked for, and can be answered once.

    Attributes:
        prompt_token_ids: the rendered conversation. params: with the grammar that holds the reply.
        context_note: what was left out of the conversation; None = nothing.
        cache_report: of the reply that found least in the prefix cache; known when a reply ends.
    """

    def __init__(
        self,
        model: ServedModel,
        request: TurnRequest,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        context_note: ContextNote | None = None,
        *,
        parses: bool = True,
    ) -> None:
        self.model = model
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.context_note = context_note
        self._request = request
        self._parsers: dict[int, ReplyParser] = {}
        self._parses = parses and model.replies is not None and model.replies.needs_parser(request.wish)
        self._num_tokens = 0
        self._least_cached: int | None = None
        self.cache_report: CacheReport | None = None

    async def check_form(self) -> None:
        """Have the grammar compiled now, for a turn that is queued later or never.

        Raises:
            InvalidParameterError: it cannot be used.
        """
        if self.params.structured is not None:
            await self.model.check_grammar(self.params.structured, _form_name(self._request))

    def fit(self, context_length: int) -> bool:
        """Lower the limit of the reply to what the context has room for; whether that was needed.

        A prompt that leaves no room is left to the engine to refuse.
        """
        room = context_length - len(self.prompt_token_ids)
        limit = self.params.max_tokens
        if room <= 0 or (limit is not None and limit <= room):
            return False
        self.params = replace(self.params, max_tokens=room)
        return True

    def deltas(self, *, whole: bool = False) -> AsyncGenerator[TurnDelta, None]:
        """Parts as they come; closing the generator aborts the turn. `whole`: nobody sees them before the end.

        Raises:
            RequestError, OverloadedError: it was refused, before anything was yielded.
            EngineError: it could not be finished.
        """
        deltas, guard = self._deltas(whole=whole), self.model.guard
        return deltas if guard is None else guarded_deltas(guard, deltas, self.model.codec, self.params.n)

    async def _deltas(self, *, whole: bool) -> AsyncGenerator[TurnDelta, None]:
        deltas = self.model.generate(self.prompt_token_ids, self.params, whole=whole).deltas
        try:
            with self._client_names():
                async for delta in deltas:
                    yield self._parsed(check_delta(delta))
        finally:
            await deltas.aclose()

    async def result(self) -> TurnResult:
        """The whole turn. Raises as `deltas` does."""
        deltas = self.model.generate(self.prompt_token_ids, self.params, whole=True).deltas
        collector = OutputCollector("turn", self.prompt_token_ids, n=self.params.n)
        try:
            with self._client_names():
                async for delta in deltas:
                    self._count(check_delta(delta))
                    collector.add(delta)
        finally:
            await deltas.aclose()
        output, guard = collector.output(), self.model.guard
        replies: list[TurnReply] = []
        altered: dict[int, str] = {}
        for reply in output.outputs:
            whole = RequestDelta(
                "turn", reply.index, reply.token_ids, reply.text, reply.logprobs, reply.finish_reason, reply.stop_reason
            )
            parts, reason = self._parse(whole), self._reason(whole)
            if guard is not None:
                parts, reason, is_altered = await guarded_parts(guard, parts, reason)
                if is_altered:
                    altered[reply.index] = "".join(part.text for part in parts)
            replies.append(turn_reply(parts, reply, reason))
        if altered:
            output = guarded_output(output, altered, self.model.codec)
        return TurnResult(tuple(replies), output.usage, self.num_reasoning_tokens, output)

    @property
    def usage(self) -> Usage:
        """Token counts so far, over all replies; the cached part of the prompt is known when a reply ends."""
        return Usage(len(self.prompt_token_ids), self._num_tokens, self._least_cached or 0)

    @property
    def more_usage(self) -> dict[str, Any]:
        """What the counts say beside numbers: of a conversation that was shortened, and of the prefix cache."""
        return context_usage(self.context_note) | cache_usage(self.model, self.prompt_token_ids, self.cache_report)

    @property
    def num_reasoning_tokens(self) -> int:
        """Of all replies so far."""
        return sum(parser.num_reasoning_tokens for parser in self._parsers.values())

    def _parsed(self, delta: RequestDelta) -> TurnDelta:
        if delta.progress is not None:
            return TurnDelta(delta.index, (), progress=delta.progress)
        self._count(delta)
        parts = self._parse(delta)
        reason = None if delta.finish_reason is None else self._reason(delta)
        return TurnDelta(delta.index, parts, delta.logprobs, reason, delta.stop_reason, delta.stats, delta.token_ids)

    def _count(self, delta: RequestDelta) -> None:
        self._num_tokens += len(delta.token_ids)
        if delta.stats is not None:  # of several replies the first may have computed what the others found
            cached = delta.stats.num_cached_tokens
            if self._least_cached is None or cached < self._least_cached:
                self._least_cached, self.cache_report = cached, delta.stats.cache_report

    def _parse(self, delta: RequestDelta) -> Sequence[ReplyPart]:
        if not self._parses:
            return (ReplyPart("content", delta.text),) if delta.text else ()
        return self._parser(delta.index).push(delta.token_ids, delta.text, delta.finish_reason, delta.stop_reason)

    def _parser(self, index: int) -> ReplyParser:
        if index not in self._parsers:
            assert self.model.replies is not None
            self._parsers[index] = self.model.replies.parser(
                self.prompt_token_ids, self._request.wish, skip_special_tokens=self.params.skip_special_tokens
            )
        return self._parsers[index]

    def _reason(self, delta: RequestDelta) -> TurnEnd:
        if delta.finish_reason != "stop":
            return "length"  # check_delta has raised for an abort
        return "tool_calls" if self._parses and self._parsers[delta.index].num_calls else "stop"

    def _client_names(self) -> AbstractContextManager[None]:
        return client_names(prompt=self._request.names.messages, form=_form_name(self._request))


async def _fitted(model: ServedModel, request: TurnRequest) -> tuple[TurnRequest, ContextNote | None]:
    """The turn with as much of its conversation as fits, by its policy."""

    async def ask(messages: Sequence[Message], max_tokens: int) -> str:
        params = replace(SUMMARY_SAMPLING, max_tokens=max_tokens)
        variables = {"enable_thinking": False}
        asked = TurnRequest(messages=messages, params=params, variables=variables, context_policy="refuse")
        # What it reads has been checked, and what it writes is read by the model alone.
        result = await (await prepare_turn(replace(model, guard=None), asked)).result()
        return result.replies[0].content

    fitted = await fit_messages(
        model,
        request.messages,
        request.context_policy or model.context_policy,
        max_tokens=request.params.max_tokens,
        make_prompt=lambda messages: _prompt(model, replace(request, messages=messages)),
        ask=ask,
    )
    return (request if fitted.note is None else replace(request, messages=fitted.messages)), fitted.note


def _prompt(model: ServedModel, request: TurnRequest) -> ChatPrompt:
    names = request.names
    for reserved in _RESERVED_VARIABLES:
        if reserved in request.variables:
            raise InvalidParameterError(
                f"{names.variables} holds {reserved!r}; give it as its own parameter", parameter=names.variables
            )
    if model.replies is None:
        if request.wish.callable:
            raise InvalidParameterError(
                f"{names.tools} are given, which {model.name} cannot call", parameter=names.tools
            )
        return ChatPrompt(request.messages, request.add_generation_prompt, request.variables, prefill=request.prefill)
    messages, tools = model.replies.messages_for(request.messages, request.wish)
    return ChatPrompt(messages, request.add_generation_prompt, request.variables, tools, request.prefill)


def _continued(model: ServedModel, context: Sequence[int], prompt_ids: Sequence[int]) -> list[int]:
    """The prompt after the context, without the tokens that begin every text."""
    start = model.codec.encode("")
    skipped = len(start) if list(prompt_ids[: len(start)]) == start else 0
    return [*context, *prompt_ids[skipped:]]


async def _with_form(model: ServedModel, request: TurnRequest, prompt_ids: Sequence[int]) -> SamplingParams:
    """The parameters with the grammar that makes the reply what the request wants."""
    params, wish = request.params, request.wish
    structured: StructuredOutput | None
    if model.replies is None:
        structured = wish.answer
    else:
        structured = model.replies.structured(prompt_ids, wish)
        if request.max_reasoning_tokens is not None:
            structured = model.replies.limited(prompt_ids, structured, request.max_reasoning_tokens)
        params = replace(params, logit_bias={**params.logit_bias, **model.replies.call_bias(wish)})
    if structured is None:
        return params
    model.check_holds_forms(_form_name(request))
    return replace(params, structured=structured)


def _form_name(request: TurnRequest) -> str:
    return request.names.tools if request.wish.callable else request.names.answer
