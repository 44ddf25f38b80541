"""POST /api/chat and /api/generate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.config import ContextPolicy
from glm_crush.errors import ContextLengthError, InvalidParameterError
from glm_crush.serving.cache_usage import cache_headers
from glm_crush.serving.chat_turn import ChatTurn, ParameterNames, TurnRequest, prepare_text, prepare_turn
from glm_crush.serving.event_stream import run_until_disconnect
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.keep_alive import keep_alive_seconds
from glm_crush.serving.model_alias import ModelAlias, model_of
from glm_crush.serving.ollama.names import known_name
from glm_crush.serving.ollama.options import Wanted
from glm_crush.serving.ollama.protocol import ChatRequest, GenerateRequest, GenerationFields
from glm_crush.serving.ollama.reply import Reply, line_stream, now
from glm_crush.serving.ollama.wishes import (
    NAMES,
    answer_form,
    neutral_messages,
    refuse_images,
    refuse_unless,
    reply_wish,
    sampling_params,
    template_variables,
)
from glm_crush.serving.routing import hold_model
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.turn_context import context_headers
from glm_crush.types import Message, SamplingParams

__all__ = ["Generation"]

_GENERATE_NAMES = ParameterNames(messages="prompt", answer="format", variables="think")


class Generation:
    """The routes that answer, over the served models."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def chat(self, http: Request) -> Response:
        """Answer a conversation."""
        started = time.perf_counter()
        request = await read_request(ChatRequest, http)
        keep_alive = self._keep_alive(request)
        if not request.messages:
            return await self._load(request, keep_alive, {"message": {"role": "assistant", "content": ""}})
        model = await self._hold(request, keep_alive, http)
        params, want = sampling_params(request, model, self._defaults(request.model))
        if want.context_length is not None:
            model = replace(model, context_length=want.context_length)
        messages = neutral_messages(request.messages)
        prefill = str(messages.pop()["content"]) if _is_begun(messages) else ""
        variables = template_variables(request, model)
        if prefill:
            refuse_unless(not request.think, "think", True, "the reply has begun, and cannot think first")
            variables = {"enable_thinking": False}
        turn = await prepare_turn(
            model,
            TurnRequest(
                messages=messages,
                params=params,
                wish=reply_wish(request, request.tools or ()),
                variables=variables,
                context_policy=_policy(request),
                prefill=prefill,
                names=NAMES,
            ),
        )
        return await self._respond("chat", request, turn, want, http, started)

    async def generate(self, http: Request) -> Response:
        """Answer one prompt, or go on from it."""
        started = time.perf_counter()
        request = await read_request(GenerateRequest, http)
        keep_alive = self._keep_alive(request)
        _refuse_unsupported(request)
        if not request.prompt:
            return await self._load(request, keep_alive, {"response": ""})
        model = await self._hold(request, keep_alive, http)
        params, want = sampling_params(request, model, self._defaults(request.model))
        if request.raw:
            turn = await prepare_text(model, request.prompt, params, answer=answer_form(request), names=_GENERATE_NAMES)
        else:
            turn = await _generate_turn(request, model, params)
        return await self._respond("generate", request, turn, want, http, started)

    def _keep_alive(self, request: GenerationFields) -> float | None:
        """Seconds; None = as before."""
        if request.keep_alive is None:
            return None
        seconds = keep_alive_seconds(request.keep_alive)
        refuse_unless(
            seconds > 0 or not self._models.is_pinned(known_name(self._models, request.model)),
            "keep_alive",
            request.keep_alive,
            "this model is pinned and stays loaded; give a duration or -1",
        )
        return seconds

    async def _hold(self, request: GenerationFields, keep_alive: float | None, http: Request) -> ServedModel:
        """The model, in use until the response has been sent."""
        return await hold_model(self._models, known_name(self._models, request.model), http, keep_alive=keep_alive)

    async def _load(self, request: GenerationFields, keep_alive: float | None, piece: dict[str, Any]) -> Response:
        """Answer a request that only wants the model to be loaded, or to go."""
        name = known_name(self._models, request.model)
        reason = "load"
        if keep_alive == 0:
            self._models.expire(name)
            reason = "unload"
        else:
            async with self._models.use(name, keep_alive=keep_alive):
                pass
        body = {"model": request.model, "created_at": now(), **piece, "done": True, "done_reason": reason}
        return json_response(body)

    def _defaults(self, name: str) -> dict[str, Any]:
        alias = self._models.aliases.get(known_name(self._models, name))
        return {} if alias is None else dict(alias.options)

    async def _respond(
        self,
        kind: Literal["chat", "generate"],
        request: GenerationFields,
        turn: ChatTurn,
        want: Wanted,
        http: Request,
        started: float,
    ) -> Response:
        """The reply within the context that was asked for; a client that goes away ends the generation."""
        context_length = want.context_length or turn.model.context_length
        num_tokens = len(turn.prompt_token_ids)
        if num_tokens >= context_length:
            name = "messages" if kind == "chat" else "prompt"
            raise ContextLengthError(
                f"{name}: the prompt has {num_tokens} tokens; the context holds {context_length} (options.num_ctx). "
                "Shorten it, or let a chat leave out older turns with truncate",
                parameter=name,
            )
        turn.fit(context_length)
        gives_context = isinstance(request, GenerateRequest) and not request.raw
        reply = Reply(kind=kind, model_name=request.model, turn=turn, started=started, gives_context=gives_context)
        if request.stream is not False:
            response = line_stream(reply.lines())
        else:
            body = await run_until_disconnect(reply.whole(), http.receive)
            response = Response(status_code=499) if body is None else json_response(body)
            response.headers.update(cache_headers(turn.model, turn.prompt_token_ids, turn.cache_report))
        response.headers.update(context_headers(turn.context_note))
        return response


async def _generate_turn(request: GenerateRequest, model: ServedModel, params: SamplingParams) -> ChatTurn:
    messages: list[Message] = [{"role": "user", "content": request.prompt or ""}]
    if request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    if request.template:
        model = model_of(ModelAlias(name=model.name, base=model.name, template=request.template), model)
    if request.context:
        model = replace(model, preface=())  # the context holds it already
    turn_request = TurnRequest(
        messages=messages,
        params=params,
        wish=reply_wish(request),
        variables=template_variables(request, model),
        context_token_ids=model.check_token_ids(request.context or [], "context"),
        names=_GENERATE_NAMES,
    )
    return await prepare_turn(model, turn_request)


def _refuse_unsupported(request: GenerateRequest) -> None:
    refuse_unless(not request.suffix, "suffix", request.suffix, "no served model fills in the middle of a text")
    refuse_images(request.images, "images")
    refuse_unless(request.truncate is not True, "truncate", True, "a prompt is never cut; chats may be")
    for name in ("width", "height", "steps"):
        refuse_unless(getattr(request, name) is None, name, getattr(request, name), "images are not generated here")
    if request.raw and (given := [n for n in ("system", "template", "context", "think") if getattr(request, n)]):
        raise InvalidParameterError(
            f"raw is true, and {given[0]} is given; a raw prompt is taken as it is: leave one of them out",
            parameter=given[0],
        )


def _policy(request: ChatRequest) -> ContextPolicy | None:
    """`truncate` in our words; without it the server's policy holds."""
    return None if request.truncate is None else "truncate" if request.truncate else "refuse"


def _is_begun(messages: list[Message]) -> bool:
    """Whether the last message is the beginning of the reply."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")
