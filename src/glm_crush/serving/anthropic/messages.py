"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import ContentBlockedError, InvalidParameterError
from glm_crush.serving.anthropic.errors import error_event
from glm_crush.serving.anthropic.protocol import CountTokensRequest, CreateMessageRequest
from glm_crush.serving.anthropic.reply import PING, ReplyStyle, message, message_events, refusal, refusal_events
from glm_crush.serving.anthropic.wishes import sampling_params, turn_request
from glm_crush.serving.cache_usage import cache_headers
from glm_crush.serving.chat_turn import prepare_turn
from glm_crush.serving.event_stream import EventStream, run_until_disconnect
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.routing import hold_model
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.turn_context import context_headers
from glm_crush.types import SamplingParams

__all__ = ["Messages"]

_VERSIONS = ("2023-06-01", "2026-10-21")  # the later one takes less; what it no longer takes is still understood


class Messages:
    """The routes of the Messages API over the served models."""

    def __init__(self, models: ServedModels, *, ping_interval_seconds: float) -> None:
        self._models = models
        self._ping_interval = ping_interval_seconds

    async def create(self, http: Request) -> Response:
        """Answer one request, as a stream or as one message; a client that goes away ends the generation."""
        _check_version(http)
        request = await read_request(CreateMessageRequest, http)
        model = await hold_model(self._models, request.model, http)
        params = sampling_params(request, model.default_params)
        if request.max_tokens >= model.context_length:
            # Clients ask for more than any context of ours holds: the reply then ends where the context does.
            params = replace(params, max_tokens=None)
        try:
            turn = await prepare_turn(model, turn_request(request, params))
        except ContentBlockedError:
            return self._refused(request, ReplyStyle(model_name=model.name), http)
        limit_is_context = turn.fit(model.context_length)
        style = ReplyStyle(
            model_name=model.name,
            omit_thinking=request.thinking is not None and request.thinking.display == "omitted",
            limit_is_context=limit_is_context,
        )
        if request.stream:
            response = self._stream(message_events(turn, style), http)
        else:
            reply = await run_until_disconnect(message(turn, style), http.receive)
            response = Response(status_code=499) if reply is None else json_response(reply)
            response.headers.update(cache_headers(model, turn.prompt_token_ids, turn.cache_report))
        response.headers.update(context_headers(turn.context_note))
        return response

    def _refused(self, request: CreateMessageRequest, style: ReplyStyle, http: Request) -> Response:
        return self._stream(refusal_events(style), http) if request.stream else json_response(refusal(style))

    def _stream(self, events: AsyncGenerator[bytes, None], http: Request) -> Response:
        request_id: str = http.state.request_id
        return EventStream(
            events,
            encode_error=lambda error: error_event(error, request_id),
            ping_interval_seconds=self._ping_interval,
            ping=PING,
        )

    async def count_tokens(self, http: Request) -> Response:
        """How many tokens the prompt of a request has."""
        _check_version(http)
        request = await read_request(CountTokensRequest, http)
        model = await hold_model(self._models, request.model, http)
        whole = replace(turn_request(request, SamplingParams()), context_policy="refuse")
        turn = await prepare_turn(model, whole)
        return json_response({"input_tokens": len(turn.prompt_token_ids)})


def _check_version(http: Request) -> None:
    version = http.headers.get("anthropic-version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise InvalidParameterError(
            f"anthropic-version is {version[:40]!r}; this server speaks {' and '.join(_VERSIONS)}",
            parameter="anthropic-version",
        )
