"""One turn of a chat, whatever protocol asked for it: from messages to parts of replies.

Above: the protocol adapters, each of which makes a `TurnRequest` of what its clients send and its own events of what
comes back. Below: a served model, the reply format, the reply parser. It knows no protocol and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.chat.reply_part import ReplyPart
from glm_crush.engine.output import OutputCollector, RequestDelta, RequestStats
from glm_crush.errors import InvalidParameterError, RequestError
from glm_crush.serving.deltas import check_delta
from glm_crush.serving.served_model import ChatPrompt, ServedModel
from glm_crush.serving.turn_result import TurnReply, TurnResult, turn_reply
from glm_crush.types import Message, SamplingParams, StructuredOutput, TokenLogprobs, Usage

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
        prefill: how the reply begins already; what is generated goes on from there.
        max_reasoning_tokens: after so many tokens of reasoning it ends and the answer begins; None = no bound.
        names: what to call the parameters in a refusal.
    """

    messages: Sequence[Message]
    params: SamplingParams
    wish: ReplyWish = field(default_factory=ReplyWish)
    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    prefill: str = ""
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
    """

    index: int
    parts: Sequence[ReplyPart]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    stop_reason: str | int | None = None
    stats: RequestStats | None = None


async def prepare_turn(model: ServedModel, request: TurnRequest) -> ChatTurn:
    """Render, encode and check everything; what can be refused before the engine sees it is refused here.

    Raises:
        InvalidParameterError: the wishes cannot be had together or not from this model; names the parameter.
        TemplateError: the template refuses the conversation, or the model has none.
    """
    prompt_ids = await model.encode_chat(_prompt(model, request))
    params = await _with_form(model, request, prompt_ids)
    return ChatTurn(model, request, prompt_ids, params)


class ChatTurn:
    """A prepared turn. It is queued when its first delta or its result is asked for, and can be answered once.

    Attributes:
        prompt_token_ids: the rendered conversation. params: with the grammar that holds the reply.
    """

    def __init__(
        self, model: ServedModel, request: TurnRequest, prompt_token_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self.model = model
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self._request = request
        self._parsers: dict[int, ReplyParser] = {}
        self._parses = model.replies is not None and model.replies.needs_parser(request.wish)
        self._num_tokens = 0
        self._least_cached: int | None = None

    async def deltas(self) -> AsyncGenerator[TurnDelta, None]:
        """Parts as they come; closing the generator aborts the turn.

        Raises:
            RequestError, OverloadedError: it was refused, before anything was yielded.
            EngineError: it could not be finished.
        """
        deltas = self.model.generate(self.prompt_token_ids, self.params).deltas
        try:
            with self._naming_the_messages():
                async for delta in deltas:
                    yield self._parsed(check_delta(delta))
        finally:
            await deltas.aclose()

    async def result(self) -> TurnResult:
        """The whole turn. Raises as `deltas` does."""
        deltas = self.model.generate(self.prompt_token_ids, self.params, whole=True).deltas
        collector = OutputCollector("turn", self.prompt_token_ids, n=self.params.n)
        try:
            with self._naming_the_messages():
                async for delta in deltas:
                    self._count(check_delta(delta))
                    collector.add(delta)
        finally:
            await deltas.aclose()
        output = collector.output()
        replies: list[TurnReply] = []
        for reply in output.outputs:
            whole = RequestDelta(
                "turn", reply.index, reply.token_ids, reply.text, reply.logprobs, reply.finish_reason, reply.stop_reason
            )
            replies.append(turn_reply(self._parse(whole), reply, self._reason(whole)))
        return TurnResult(tuple(replies), output.usage, self.num_reasoning_tokens, output)

    @property
    def usage(self) -> Usage:
        """Token counts so far, over all replies; the cached part of the prompt is known when a reply ends."""
        return Usage(len(self.prompt_token_ids), self._num_tokens, self._least_cached or 0)

    @property
    def num_reasoning_tokens(self) -> int:
        """Of all replies so far."""
        return sum(parser.num_reasoning_tokens for parser in self._parsers.values())

    def _parsed(self, delta: RequestDelta) -> TurnDelta:
        self._count(delta)
        parts = self._parse(delta)
        if delta.finish_reason is None:
            return TurnDelta(delta.index, parts, delta.logprobs)
        reason = self._reason(delta)
        return TurnDelta(delta.index, parts, delta.logprobs, reason, delta.stop_reason, delta.stats)

    def _count(self, delta: RequestDelta) -> None:
        self._num_tokens += len(delta.token_ids)
        if delta.stats is not None:  # of several replies the first may have computed what the others found
            cached = delta.stats.num_cached_tokens
            self._least_cached = cached if self._least_cached is None else min(cached, self._least_cached)

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

    def _reason(self, delta: RequestDelta) -> Literal["stop", "length", "tool_calls"]:
        if delta.finish_reason != "stop":
            return "length"  # check_delta has raised for an abort
        return "tool_calls" if self._parses and self._parsers[delta.index].num_calls else "stop"

    @contextmanager
    def _naming_the_messages(self) -> Iterator[None]:
        """The engine says `prompt`; the client is told what it called it."""
        try:
            yield
        except RequestError as error:
            if error.parameter == "prompt":
                error.parameter = self._request.names.messages
            raise


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
    await model.check_grammar(structured, request.names.tools if wish.callable else request.names.answer)
    return replace(params, structured=structured)
