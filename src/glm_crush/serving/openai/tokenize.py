"""POST /tokenize, /detokenize and the two `render` routes, as vLLM names them: what the model would be given.

Above: the OpenAI routes. Below: the served model's codec and the same preparation that a real request goes through.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.chat_turn import TurnRequest, prepare_turn
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openai.chat import chat_message, turn_request
from glm_crush.serving.openai.completions import encode_prompts
from glm_crush.serving.openai.parameters import completion_sampling_params
from glm_crush.serving.openai.protocol import ChatMessage, ChatRequest, CompletionRequest
from glm_crush.serving.openai.replies import DetokenizedText, RenderedPrompt, TokenizedPrompt
from glm_crush.serving.openai.reply_wish import wanted_structure
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute, hold_model
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.types import SamplingParams

__all__ = ["DetokenizeRequest", "TokenizeRequest", "tokenize_routes"]

_ONLY_WITH_MESSAGES = ("add_generation_prompt", "chat_template_kwargs", "tools")


class TokenizeRequest(StrictModel):
    """POST /tokenize: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    # neutral values only
    continue_final_message: bool | None = None
    chat_template: str | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(StrictModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


def tokenize_routes(models: ServedModels) -> list[ApiRoute]:
    """What vLLM's clients call to see tokens."""
    routes = _Tokenization(models)
    return [
        (
            Endpoint(
                "POST", "/tokenize", "Token ids of a prompt or of messages.", TokenizeRequest, reply=TokenizedPrompt
            ),
            routes.tokenize,
        ),
        (
            Endpoint("POST", "/detokenize", "The text of token ids.", DetokenizeRequest, reply=DetokenizedText),
            routes.detokenize,
        ),
        (
            Endpoint(
                "POST",
                "/v1/chat/completions/render",
                "The prompt of a conversation.",
                ChatRequest,
                reply=RenderedPrompt,
            ),
            routes.render_chat,
        ),
        (
            Endpoint(
                "POST",
                "/v1/completions/render",
                "The token ids of prompts.",
                CompletionRequest,
                reply=list[RenderedPrompt],
            ),
            routes.render_completion,
        ),
    ]


class _Tokenization:
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def tokenize(self, http: Request) -> Response:
        request = await read_request(TokenizeRequest, http)
        _refuse_unsupported(request)
        model = await hold_model(self._models, request.model, http)
        token_ids = await _token_ids(model, request)
        reply: dict[str, Any] = {
            "count": len(token_ids),
            "max_model_len": model.context_length,
            "tokens": token_ids,
            "token_strs": None,
        }
        if request.return_token_strs:
            reply["token_strs"] = [_piece(model, token_id) for token_id in token_ids]
        return json_response(reply)

    async def detokenize(self, http: Request) -> Response:
        request = await read_request(DetokenizeRequest, http)
        model = await hold_model(self._models, request.model, http)
        token_ids = model.check_token_ids(request.tokens, "tokens")
        return json_response({"prompt": await asyncio.to_thread(model.codec.decode, token_ids)})

    async def render_chat(self, http: Request) -> Response:
        request = await read_request(ChatRequest, http)
        model = await hold_model(self._models, request.model, http)
        turn = await prepare_turn(model, turn_request(request, model))
        await turn.check_form()
        return json_response(await _rendered(model, turn.prompt_token_ids, turn.params))

    async def render_completion(self, http: Request) -> Response:
        request = await read_request(CompletionRequest, http)
        model = await hold_model(self._models, request.model, http)
        params = completion_sampling_params(request, model.default_params)
        structured = wanted_structure(request)
        if structured is not None:
            await model.check_grammar(structured, "structured_outputs")
            params = replace(params, structured=structured)
        rendered = [await _rendered(model, token_ids, params) for token_ids in await encode_prompts(request, model)]
        return Response(to_json(rendered), media_type="application/json")


async def _token_ids(model: ServedModel, request: TokenizeRequest) -> list[int]:
    if request.prompt is not None:
        special = request.add_special_tokens is not False
        return await asyncio.to_thread(model.codec.encode, request.prompt, add_special_tokens=special)
    tools = request.tools or []
    turn = TurnRequest(
        messages=[chat_message(message) for message in request.messages or ()],
        params=model.default_params,
        wish=ReplyWish(tools=tools, schemas=tool_schemas(tools), choice="auto" if tools else "none"),
        variables=request.chat_template_kwargs or {},
        add_generation_prompt=request.add_generation_prompt is not False,
        context_policy="refuse",  # all of it is counted
    )
    return list((await prepare_turn(model, turn)).prompt_token_ids)


def _refuse_unsupported(request: TokenizeRequest) -> None:
    """Exactly one input, and nothing that would have no effect."""
    if (request.prompt is None) == (request.messages is None):
        raise InvalidParameterError("give either prompt or messages", parameter="prompt")
    if request.prompt is not None:
        for name in _ONLY_WITH_MESSAGES:
            if getattr(request, name) is not None:
                raise InvalidParameterError(f"{name} is for messages, and prompt is given; remove it", parameter=name)
    elif request.add_special_tokens:
        raise InvalidParameterError(
            "add_special_tokens is true with messages; the chat template writes the special tokens: leave it out",
            parameter="add_special_tokens",
        )
    for name in ("continue_final_message", "chat_template", "mm_processor_kwargs", "media_io_kwargs"):
        value = getattr(request, name)
        if value not in (None, False, {}):
            raise InvalidParameterError(
                f"{name} is {value!r:.80}, which this server does not support; leave it out", parameter=name
            )


async def _rendered(model: ServedModel, token_ids: Sequence[int], params: SamplingParams) -> dict[str, Any]:
    """As vLLM asks its engine: the tokens, and how they would be continued; and the prompt as text."""
    return {
        "request_id": uuid.uuid4().hex,
        "model": model.name,
        "token_ids": list(token_ids),
        "prompt": await asyncio.to_thread(model.codec.decode, token_ids),
        "features": None,
        "sampling_params": asdict(params),
    }


def _piece(model: ServedModel, token_id: int) -> str:
    return model.codec.token_bytes(token_id).decode("utf-8", errors="replace")
