"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.reply_parser import ReplyParser
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.chat_reply import ChatReplies
from glm_crush.serving.openai.chunks import usage_object
from glm_crush.serving.openai.exchange import Exchange, find_model, new_head, read_request, total_usage
from glm_crush.serving.openai.parameters import chat_sampling_params
from glm_crush.serving.openai.protocol import ChatMessage, ChatRequest
from glm_crush.serving.openai.reply_wish import reply_wish
from glm_crush.serving.served_model import ChatPrompt, ServedModel
from glm_crush.types import Message, RequestOutput, SamplingParams

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
        wish = reply_wish(request)
        params = chat_sampling_params(request, model.default_params)
        prompt_ids = await model.encode_chat(_prompt(request, model, wish))
        answer_parameter = "structured_outputs" if request.structured_outputs else "response_format"
        params = await _with_form(params, model, prompt_ids, wish, answer_parameter)
        replies = ChatReplies(model.codec, _parser_maker(model, prompt_ids, wish, params))
        head = new_head("chatcmpl", model)
        exchange = Exchange(
            request,
            [model.generate(prompt_ids, params)],
            replies_per_prompt=params.n,
            prompt_name="messages",
            ping_interval_seconds=self._ping_interval,
            count_reasoning=replies.num_reasoning_tokens,
        )

        def build(outputs: Sequence[RequestOutput]) -> dict[str, Any]:
            choices = [replies.choice(reply) for reply in outputs[0].outputs]
            usage = usage_object(total_usage(outputs), replies.num_reasoning_tokens())
            return {**head.fields("chat.completion"), "choices": choices, "usage": usage}

        return await exchange.respond(http, head, "chat.completion.chunk", replies.chunks, build)


def _prompt(request: ChatRequest, model: ServedModel, wish: ReplyWish) -> ChatPrompt:
    variables = dict(request.chat_template_kwargs or {})
    for reserved in ("messages", "tools", "add_generation_prompt"):
        if reserved in variables:
            raise InvalidParameterError(
                f"chat_template_kwargs holds {reserved!r}; give it as its own parameter",
                parameter="chat_template_kwargs",
            )
    messages = [_message(message) for message in request.messages]
    generation_prompt = True if request.add_generation_prompt is None else request.add_generation_prompt
    if model.replies is None:
        if wish.callable:
            raise InvalidParameterError(f"tools are given, which {model.name} cannot call", parameter="tools")
        return ChatPrompt(messages, generation_prompt, variables)
    messages, tools = model.replies.messages_for(messages, wish)
    return ChatPrompt(messages, generation_prompt, variables, tools)


async def _with_form(
    params: SamplingParams, model: ServedModel, prompt_ids: Sequence[int], wish: ReplyWish, answer_parameter: str
) -> SamplingParams:
    """The parameters with the grammar that makes the reply what the request wants."""
    if model.replies is None:
        structured = wish.answer
    else:
        structured = model.replies.structured(prompt_ids, wish)
        params = replace(params, logit_bias={**params.logit_bias, **model.replies.call_bias(wish)})
    if structured is None:
        return params
    await model.check_grammar(structured, "tools" if wish.callable else answer_parameter)
    return replace(params, structured=structured)


def _parser_maker(
    model: ServedModel, prompt_ids: Sequence[int], wish: ReplyWish, params: SamplingParams
) -> Callable[[], ReplyParser] | None:
    replies = model.replies
    if replies is None or not replies.needs_parser(wish):
        return None
    return lambda: replies.parser(prompt_ids, wish, skip_special_tokens=params.skip_special_tokens)


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
