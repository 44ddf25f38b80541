"""Generation: the resolvers of `chat` and `complete`, whole and streamed, over the neutral chat turn.

Above: the schema. Below: chat turn, served models. A model is in use until the reply or the stream has ended.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import strawberry

from glm_crush.serving.chat_turn import ChatTurn, ParameterNames, TurnDelta, prepare_text, prepare_turn
from glm_crush.serving.graphql import outputs
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.inputs import ChatInput, CompletionInput, ContextPolicy
from glm_crush.serving.graphql.scalars import TokenIds
from glm_crush.serving.graphql.translate import chat_request, completion_request
from glm_crush.serving.openai.chat import turn_request
from glm_crush.serving.openai.exchange import new_head
from glm_crush.serving.openai.logprobs import chat_logprobs, prompt_logprobs
from glm_crush.serving.openai.parameters import completion_sampling_params
from glm_crush.serving.openai.reply_wish import wanted_structure
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.turn_result import TurnReply, TurnResult
from glm_crush.types import ContextNote, TokenLogprobs, Usage

__all__ = ["chat", "complete", "stream_chat", "stream_complete"]

_NAMES = ParameterNames(answer="responseFormat", variables="chatTemplateKwargs")
_PROMPT_NAMES = ParameterNames(messages="prompt", answer="responseFormat")
_TOKEN_NAMES = ParameterNames(messages="promptTokenIds", answer="responseFormat")


async def chat(context: OperationContext, given: ChatInput) -> outputs.ChatReply:
    """A conversation answered whole."""
    async with context.models.use(given.model) as model:
        turn = await _chat_turn(context, model, given)
        head = new_head("chatcmpl", model)
        result = await turn.result()
        return outputs.ChatReply(
            id=strawberry.ID(head.id),
            created=datetime.fromtimestamp(head.created, UTC),
            model=model.name,
            choices=[_chat_choice(reply, model) for reply in result.replies],
            usage=_usage(result.usage, result.num_reasoning_tokens),
            context=_context(turn.context_note),
            prompt_logprobs=_prompt_logprobs(result, model),
        )


async def stream_chat(context: OperationContext, given: ChatInput) -> AsyncGenerator[outputs.ChatDelta, None]:
    """A conversation answered as it is written; closing the generator ends the generation."""
    async with context.models.use(given.model) as model:
        turn = await _chat_turn(context, model, given, streams=True)
        reply_id = strawberry.ID(new_head("chatcmpl", model).id)
        deltas = turn.deltas()
        try:
            async for delta in deltas:
                if delta.parts or delta.logprobs or delta.finish_reason:
                    yield _chat_delta(reply_id, turn, delta)
        finally:
            await deltas.aclose()


async def complete(context: OperationContext, given: CompletionInput) -> outputs.Completion:
    """A text gone on with, whole."""
    async with context.models.use(given.model) as model:
        turn = await _completion_turn(context, model, given)
        head = new_head("cmpl", model)
        result = await turn.result()
        return outputs.Completion(
            id=strawberry.ID(head.id),
            created=datetime.fromtimestamp(head.created, UTC),
            model=model.name,
            choices=_completion_choices(result, model),
            usage=_usage(result.usage, 0),
            prompt_logprobs=_prompt_logprobs(result, model),
        )


async def stream_complete(
    context: OperationContext, given: CompletionInput
) -> AsyncGenerator[outputs.CompletionDelta, None]:
    """A text gone on with as it is written; closing the generator ends the generation."""
    async with context.models.use(given.model) as model:
        turn = await _completion_turn(context, model, given, streams=True)
        reply_id = strawberry.ID(new_head("cmpl", model).id)
        deltas = turn.deltas()
        try:
            async for delta in deltas:
                yield outputs.CompletionDelta(
                    id=reply_id,
                    model=model.name,
                    index=delta.index,
                    text="".join(part.text for part in delta.parts),
                    token_ids=TokenIds(list(delta.token_ids)),
                    logprobs=_logprobs(delta.logprobs, model),
                    finish_reason=_finish_reason(delta.finish_reason),
                    stop_reason=_text(delta.stop_reason),
                    usage=_usage(turn.usage, 0) if delta.finish_reason else None,
                )
        finally:
            await deltas.aclose()


async def _chat_turn(
    context: OperationContext, model: ServedModel, given: ChatInput, *, streams: bool = False
) -> ChatTurn:
    context.admission.check_model(model.name)
    request = chat_request(given)
    request.stream = streams
    turn = replace(
        turn_request(request, model),
        prefill=given.prefill or "",
        max_reasoning_tokens=given.max_reasoning_tokens,
        names=_NAMES,
    )
    return await prepare_turn(model, turn)


async def _completion_turn(
    context: OperationContext, model: ServedModel, given: CompletionInput, *, streams: bool = False
) -> ChatTurn:
    context.admission.check_model(model.name)
    request = completion_request(given)
    request.stream = streams
    params = completion_sampling_params(request, model.default_params)
    answer = wanted_structure(request)
    prompt = given.prompt if given.prompt_token_ids is None else given.prompt_token_ids
    names = _PROMPT_NAMES if given.prompt_token_ids is None else _TOKEN_NAMES
    return await prepare_text(model, prompt or "", params, answer=answer, names=names)


def _chat_choice(reply: TurnReply, model: ServedModel) -> outputs.ChatChoice:
    return outputs.ChatChoice(
        index=reply.index,
        content=reply.content,
        reasoning=reply.reasoning,
        tool_calls=[
            outputs.ToolCall(id=_call_id(), name=call.name, arguments=call.arguments) for call in reply.tool_calls
        ],
        finish_reason=outputs.FinishReason(reply.finish_reason),
        stop_reason=_text(reply.stop_reason),
        logprobs=_logprobs(reply.logprobs, model),
    )


def _chat_delta(reply_id: strawberry.ID, turn: ChatTurn, delta: TurnDelta) -> outputs.ChatDelta:
    texts = {"content": "", "reasoning": ""}
    calls: list[outputs.ToolCallDelta] = []
    for part in delta.parts:
        if part.kind == "tool_name":
            calls.append(outputs.ToolCallDelta(index=part.index, id=_call_id(), name=part.text, arguments=""))
        elif part.kind == "tool_arguments":
            calls.append(outputs.ToolCallDelta(index=part.index, id=None, name=None, arguments=part.text))
        else:
            texts[part.kind] += part.text
    ends = delta.finish_reason is not None
    return outputs.ChatDelta(
        id=reply_id,
        model=turn.model.name,
        index=delta.index,
        content=texts["content"],
        reasoning=texts["reasoning"],
        tool_calls=calls,
        logprobs=_logprobs(delta.logprobs, turn.model),
        finish_reason=_finish_reason(delta.finish_reason),
        stop_reason=_text(delta.stop_reason),
        usage=_usage(turn.usage, turn.num_reasoning_tokens) if ends else None,
        context=_context(turn.context_note) if ends else None,
    )


def _completion_choices(result: TurnResult, model: ServedModel) -> list[outputs.CompletionChoice]:
    return [
        outputs.CompletionChoice(
            index=reply.index,
            text=reply.content,
            token_ids=TokenIds(list(output.token_ids)),
            finish_reason=outputs.FinishReason(reply.finish_reason),
            stop_reason=_text(reply.stop_reason),
            logprobs=_logprobs(reply.logprobs, model),
            score=output.score,
        )
        for reply, output in zip(result.replies, result.output.outputs, strict=True)
    ]


def _usage(usage: Usage, num_reasoning_tokens: int) -> outputs.Usage:
    return outputs.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=num_reasoning_tokens,
        accepted_prediction_tokens=usage.accepted_prediction_tokens,
        rejected_prediction_tokens=usage.rejected_prediction_tokens,
    )


def _context(note: ContextNote | None) -> outputs.ContextNote | None:
    if note is None:
        return None
    return outputs.ContextNote(
        policy=ContextPolicy(note.policy),
        context_length=note.context_length,
        prompt_tokens_before=note.num_tokens_before,
        prompt_tokens=note.num_tokens,
        dropped_messages=list(note.dropped),
        shortened_message=note.shortened,
        summary=note.summary,
    )


def _logprobs(tokens: Sequence[TokenLogprobs] | None, model: ServedModel) -> Any:
    scored = chat_logprobs(tokens, model.codec)
    return None if scored is None else scored["content"]


def _prompt_logprobs(result: TurnResult, model: ServedModel) -> Any:
    return prompt_logprobs(result.output.prompt_logprobs, model.codec)


def _finish_reason(reason: str | None) -> outputs.FinishReason | None:
    return None if reason is None else outputs.FinishReason(reason)


def _text(stop_reason: str | int | None) -> str | None:
    return None if stop_reason is None else str(stop_reason)


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
