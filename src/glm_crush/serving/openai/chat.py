"""POST /v1/chat/completions."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.serving.chat_turn import ParameterNames, TurnRequest, prepare_turn
from glm_crush.serving.event_stream import EventStream, run_until_disconnect
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.openai.chat_reply import chat_completion, chat_events
from glm_crush.serving.openai.chunks import error_event
from glm_crush.serving.openai.effort import with_effort
from glm_crush.serving.openai.exchange import new_head
from glm_crush.serving.openai.limits import check_chat_limits
from glm_crush.serving.openai.parameters import chat_sampling_params
from glm_crush.serving.openai.protocol import ChatMessage, ChatRequest
from glm_crush.serving.openai.reply_wish import reply_wish
from glm_crush.serving.routing import hold_model
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.turn_context import context_headers
from glm_crush.types import Message

__all__ = ["ChatCompletions", "chat_message", "turn_request"]


class ChatCompletions:
    """The route of chat completions over the served models."""

    def __init__(self, models: ServedModels, *, ping_interval_seconds: float) -> None:
        self._models = models
        self._ping_interval = ping_interval_seconds

    async def create(self, http: Request) -> Response:
        """Answer one request, as a stream or as one object; a client that goes away ends the generation."""
        request = await read_request(ChatRequest, http)
        check_chat_limits(request)
        model = await hold_model(self._models, request.model, http)
        turn = await prepare_turn(model, turn_request(request, model))
        head = new_head("chatcmpl", model)
        if request.stream:
            include_usage = request.stream_options is not None and request.stream_options.include_usage
            events = chat_events(turn, head, include_usage=include_usage)
            response: Response = EventStream(
                events, encode_error=error_event, ping_interval_seconds=self._ping_interval
            )
        else:
            reply = await run_until_disconnect(chat_completion(turn, head), http.receive)
            response = Response(status_code=499) if reply is None else json_response(reply)
        response.headers.update(context_headers(turn.context_note))
        return response


def turn_request(request: ChatRequest, model: ServedModel) -> TurnRequest:
    """The turn that a request asks for.

    Raises:
        InvalidParameterError: a parameter is out of range or not supported; names it.
    """
    return TurnRequest(
        messages=[chat_message(message) for message in request.messages],
        params=chat_sampling_params(request, model.default_params),
        wish=reply_wish(request),
        variables=with_effort(request.chat_template_kwargs, request.reasoning_effort, model, "reasoning_effort"),
        add_generation_prompt=request.add_generation_prompt is not False,
        context_policy=request.context_policy,
        names=ParameterNames(answer="structured_outputs" if request.structured_outputs else "response_format"),
    )


def chat_message(message: ChatMessage) -> Message:
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
