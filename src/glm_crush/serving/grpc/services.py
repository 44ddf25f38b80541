"""The methods of `glm_crush.proto`, each an async function over the neutral chat turn or the engine.

Above: `server`. Below: chat turn, served models. What a method raises becomes a status in `server`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from glm_crush.engine.output import OutputCollector, RequestDelta
from glm_crush.serving.chat_turn import ChatTurn, prepare_turn
from glm_crush.serving.client_names import client_names
from glm_crush.serving.deltas import check_delta
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from glm_crush.serving.grpc.translate import chat_request, completion_request, usage_message
from glm_crush.serving.openai.chat import turn_request
from glm_crush.serving.openai.completions import encode_prompts
from glm_crush.serving.openai.models import model_cards
from glm_crush.serving.openai.parameters import completion_sampling_params
from glm_crush.serving.openai.reply_wish import wanted_structure
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.turn_guard import guarded_text
from glm_crush.types import RequestOutput

__all__ = ["GenerationService", "ModelsService"]


class GenerationService:
    """`glm_crush.v1.Generation`."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def chat(self, message: pb.ChatRequest) -> pb.ChatReply:
        """Answer a conversation, whole."""
        async with self._models.use(message.model) as model:
            result = await (await _turn(model, message)).result()
            reply = result.replies[0]
            return pb.ChatReply(
                model=model.name,
                content=reply.content,
                reasoning=reply.reasoning,
                finish_reason=reply.finish_reason,
                usage=usage_message(result.usage, result.num_reasoning_tokens),
            )

    async def stream_chat(self, message: pb.ChatRequest) -> AsyncGenerator[pb.ChatDelta, None]:
        """Answer a conversation as it is written."""
        async with self._models.use(message.model) as model:
            turn = await _turn(model, message)
            deltas = turn.deltas()
            try:
                async for delta in deltas:
                    texts = {"content": "", "reasoning": ""}
                    for part in delta.parts:
                        if part.kind in texts:
                            texts[part.kind] += part.text
                    usage = usage_message(turn.usage, turn.num_reasoning_tokens) if delta.finish_reason else None
                    yield pb.ChatDelta(**texts, finish_reason=delta.finish_reason or "", usage=usage)
            finally:
                await deltas.aclose()

    async def complete(self, message: pb.CompleteRequest) -> pb.CompleteReply:
        """Go on with a text, whole."""
        async with self._models.use(message.model) as model:
            prompt, deltas = await _completion(model, message)
            collector = OutputCollector("grpc", prompt)
            try:
                async for delta in deltas:
                    collector.add(check_delta(delta))
            finally:
                await deltas.aclose()
            output: RequestOutput = collector.output()
            reply = output.outputs[0]
            return pb.CompleteReply(
                model=model.name,
                text=reply.text,
                token_ids=_shown_ids(model, reply.token_ids),
                finish_reason=reply.finish_reason or "",
                usage=usage_message(output.usage),
            )

    async def stream_complete(self, message: pb.CompleteRequest) -> AsyncGenerator[pb.CompleteDelta, None]:
        """Go on with a text as it is written."""
        async with self._models.use(message.model) as model:
            prompt, deltas = await _completion(model, message)
            collector = OutputCollector("grpc", prompt)
            try:
                async for delta in deltas:
                    collector.add(check_delta(delta))
                    usage = usage_message(collector.output().usage) if delta.finish_reason else None
                    yield pb.CompleteDelta(
                        text=delta.text,
                        token_ids=_shown_ids(model, delta.token_ids),
                        finish_reason=delta.finish_reason or "",
                        usage=usage,
                    )
            finally:
                await deltas.aclose()


class ModelsService:
    """`glm_crush.v1.Models`."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def list(self, _: pb.ListModelsRequest) -> pb.ListModelsReply:
        """What can be asked to write, loaded or not."""
        cards = [card for card in model_cards(self._models) if card["capabilities"].get("completion", True)]
        found = [pb.Model(name=card["id"], context_length=card["max_model_len"] or 0) for card in cards]
        return pb.ListModelsReply(models=found)

    async def tokenize(self, message: pb.TokenizeRequest) -> pb.TokenizeReply:
        """Ids of a text, with what the model wants at the start."""
        async with self._models.use(message.model) as model:
            return pb.TokenizeReply(token_ids=await model.encode_text(message.text))

    async def detokenize(self, message: pb.DetokenizeRequest) -> pb.DetokenizeReply:
        """Text of ids."""
        async with self._models.use(message.model) as model:
            ids = model.check_token_ids(list(message.token_ids), "token_ids")
            return pb.DetokenizeReply(text=model.codec.decode(ids))


async def _turn(model: ServedModel, message: pb.ChatRequest) -> ChatTurn:
    return await prepare_turn(model, turn_request(chat_request(message), model))


async def _completion(
    model: ServedModel, message: pb.CompleteRequest
) -> tuple[list[int], AsyncGenerator[RequestDelta, None]]:
    request = completion_request(message)
    params = completion_sampling_params(request, model.default_params)
    structured = wanted_structure(request)
    if structured is not None:
        model.check_holds_forms("form")
        params = replace(params, structured=structured)
    (prompt,) = await encode_prompts(request, model)
    return prompt, _in_client_names(guarded_text(model, model.generate(prompt, params), params.n).deltas)


async def _in_client_names(deltas: AsyncGenerator[RequestDelta, None]) -> AsyncGenerator[RequestDelta, None]:
    try:
        with client_names(prompt="prompt", form="form"):
            async for delta in deltas:
                yield delta
    finally:
        await deltas.aclose()


def _shown_ids(model: ServedModel, token_ids: Sequence[int]) -> Sequence[int]:
    """None where the guard may have taken out what they stand for."""
    return () if model.guard is not None and model.guard.alters_replies else token_ids
