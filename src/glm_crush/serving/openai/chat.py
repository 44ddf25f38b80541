"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.engine.output import RequestDelta
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.chunks import ChunkWriter, ReplyHead, usage_object
from glm_crush.serving.openai.exchange import Exchange, find_model, new_head, read_request, total_usage
from glm_crush.serving.openai.logprobs import chat_logprobs
from glm_crush.serving.openai.parameters import chat_sampling_params
from glm_crush.serving.openai.protocol import ChatMessage, ChatRequest
from glm_crush.serving.served_model import ChatPrompt, ServedModel, TextCodec
from glm_crush.types import Message, RequestOutput

__all__ = ["ChatCompletions"]


class ChatCompletions:
    """The route of chat completions over the served models."""

    def __init__(self, models: dict[str, ServedModel], *, ping_interval_seconds: float) -> None:
        self._models = models
        self._ping_interval = ping_interval_seconds

    async def create(self, http: Request) -> Response:
        """Answer one request, as a stream or as one object."""
        request = await read_request(ChatRequest, http)
        model = find_model(self._models, request.model)
        params = chat_sampling_params(request, model.default_params)
        prompt_ids = await model.encode_chat(_prompt(request))
        head = new_head("chatcmpl", model)
        exchange = Exchange(
            request,
            [model.generate(prompt_ids, params)],
            replies_per_prompt=params.n,
            prompt_name="messages",
            ping_interval_seconds=self._ping_interval,
        )

        def encode(writer: ChunkWriter, choice: int, delta: RequestDelta, first: bool) -> list[bytes]:
            return _encode_delta(writer, choice, delta, first, model.codec)

        def build(outputs: Sequence[RequestOutput]) -> dict[str, Any]:
            return _reply(head, outputs, model.codec)

        return await exchange.respond(http, head, "chat.completion.chunk", encode, build)


def _prompt(request: ChatRequest) -> ChatPrompt:
    variables = dict(request.chat_template_kwargs or {})
    for reserved in ("messages", "tools", "add_generation_prompt"):
        if reserved in variables:
            raise InvalidParameterError(
                f"chat_template_kwargs holds {reserved!r}; give it as its own parameter",
                parameter="chat_template_kwargs",
            )
    messages = [_message(message) for message in request.messages]
    generation_prompt = True if request.add_generation_prompt is None else request.add_generation_prompt
    return ChatPrompt(messages, generation_prompt, variables)


def _message(message: ChatMessage) -> Message:
    """The message as chat templates expect it: text parts joined, unset fields left out."""
    content = message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content
    result: Message = {"role": "system" if message.role == "developer" else message.role, "content": text}
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        result["reasoning_content"] = reasoning
    if message.name is not None:
        result["name"] = message.name
    if message.tool_calls:
        result["tool_calls"] = message.tool_calls
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    return result


def _encode_delta(writer: ChunkWriter, choice: int, delta: RequestDelta, first: bool, codec: TextCodec) -> list[bytes]:
    """The role first, then text, then the reason to finish: each in a chunk of its own, as OpenAI sends them."""
    chunks = []
    if first:
        chunks.append(writer.delta(choice, {"role": "assistant", "content": ""}))
    logprobs = chat_logprobs(delta.logprobs, codec)
    if delta.text or logprobs:
        chunks.append(writer.delta(choice, {"content": delta.text}, logprobs=logprobs))
    if delta.finish_reason:
        chunks.append(writer.delta(choice, {}, delta.finish_reason))
    return chunks


def _reply(head: ReplyHead, outputs: Sequence[RequestOutput], codec: TextCodec) -> dict[str, Any]:
    choices = [
        {
            "index": reply.index,
            "message": {"role": "assistant", "content": reply.text, "refusal": None},
            "logprobs": chat_logprobs(reply.logprobs, codec),
            "finish_reason": reply.finish_reason,
        }
        for reply in outputs[0].outputs
    ]
    return {**head.fields("chat.completion"), "choices": choices, "usage": usage_object(total_usage(outputs))}
