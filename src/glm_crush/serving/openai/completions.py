"""POST /v1/completions: a prompt as text or token ids, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.engine.best_of import MeanLogprob, select_best
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.cache_usage import cache_usage
from glm_crush.serving.json_http import read_request
from glm_crush.serving.openai.chunks import ChunkWriter, ReplyHead, usage_object
from glm_crush.serving.openai.exchange import Exchange, new_head, total_usage
from glm_crush.serving.openai.limits import check_limits
from glm_crush.serving.openai.logprobs import CompletionLogprobs, prompt_logprobs
from glm_crush.serving.openai.parameters import completion_sampling_params
from glm_crush.serving.openai.protocol import CompletionRequest
from glm_crush.serving.openai.reply_wish import wanted_structure
from glm_crush.serving.routing import hold_model
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.turn_guard import guarded_prompt, guarded_text, refuse_logprobs
from glm_crush.types import CompletionOutput, RequestOutput

__all__ = ["Completions", "encode_prompts"]

MOST_PROMPTS = 256


class Completions:
    """The route of text completions over the served models."""

    def __init__(self, models: ServedModels, *, ping_interval_seconds: float) -> None:
        self._models = models
        self._ping_interval = ping_interval_seconds

    async def create(self, http: Request) -> Response:
        """Answer one request, as a stream or as one object."""
        request = await read_request(CompletionRequest, http)
        check_limits(request)
        model = await hold_model(self._models, request.model, http)
        refuse_logprobs(model.guard, asked=request.logprobs is not None)
        params = completion_sampling_params(request, model.default_params)
        structured = wanted_structure(request)
        if structured is not None:
            model.check_holds_forms("structured_outputs")
            params = replace(params, structured=structured)
        prompts = await encode_prompts(request, model)
        head = new_head("cmpl", model)
        exchange = Exchange(
            request,
            [
                guarded_text(model, model.generate(prompt, params, whole=not request.stream), params.n)
                for prompt in prompts
            ],
            replies_per_prompt=params.n,
            prompt_name="prompt",
            ping_interval_seconds=self._ping_interval,
            more_usage=lambda outputs: _more_usage(outputs, model),
        )
        echoes = [model.codec.decode(prompt) if request.echo else "" for prompt in prompts]
        scored: dict[int, CompletionLogprobs] = {}  # of each choice of a stream

        n = request.n or 1

        def encode(writer: ChunkWriter, choice: int, delta: RequestDelta, first: bool) -> list[bytes]:
            if not (delta.text or delta.logprobs or delta.finish_reason or first):
                return []
            number = choice // params.n
            text = echoes[number] + delta.text if first else delta.text
            if choice not in scored:
                scored[choice] = CompletionLogprobs(model.codec)
            scores = delta.prompt_logprobs if first else None
            prompt = None if scores is None else (prompts[number], scores)
            logprobs = scored[choice].encode(delta.logprobs, prompt=prompt)
            return [writer.text(choice, text, delta.finish_reason, logprobs)]

        def build(outputs: Sequence[RequestOutput]) -> dict[str, Any]:
            return _reply(head, [_answered(output, request) for output in outputs], echoes, n, model, request)

        return await exchange.respond(http, head, "text_completion", encode, build)


async def encode_prompts(request: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """One list of ids per prompt.

    Raises:
        InvalidParameterError: no prompt, too many, or an id the model does not have.
        ContentBlockedError: the model may not see one.
    """
    given = request.prompt
    prompts: list[str | list[int]]
    if isinstance(given, str):
        prompts = [given]
    elif given and all(isinstance(item, int) for item in given):
        prompts = [[item for item in given if isinstance(item, int)]]
    else:
        prompts = [item for item in given if not isinstance(item, int)]
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise InvalidParameterError(
            f"prompt holds {len(prompts)} prompts; give between 1 and {MOST_PROMPTS}", parameter="prompt"
        )
    encoded = []
    for prompt in prompts:
        ids = await _encode_prompt(prompt, model)
        if not ids:
            raise InvalidParameterError("prompt is empty; give at least one token", parameter="prompt")
        encoded.append(list(ids))
    return encoded


async def _encode_prompt(prompt: str | list[int], model: ServedModel) -> Sequence[int]:
    guard = model.guard
    if isinstance(prompt, str):
        return await model.encode_text(prompt if guard is None else await guard.text(prompt, "prompt"))
    ids = model.check_token_ids(prompt, "prompt")
    return ids if guard is None else await guarded_prompt(guard, model, ids, "prompt")


def _reply(
    head: ReplyHead,
    outputs: Sequence[RequestOutput],
    echoes: Sequence[str],
    replies_per_prompt: int,
    model: ServedModel,
    request: CompletionRequest,
) -> dict[str, Any]:
    choices = [
        _choice(number * replies_per_prompt + reply.index, output, reply, echoes[number], model, request)
        for number, output in enumerate(outputs)
        for reply in output.outputs
    ]
    usage = {**usage_object(total_usage(outputs)), **_more_usage(outputs, model)}
    return {**head.fields("text_completion"), "choices": choices, "usage": usage}


def _more_usage(outputs: Sequence[RequestOutput], model: ServedModel) -> dict[str, Any]:
    """Of several prompts the first speaks."""
    return cache_usage(model, outputs[0].prompt_token_ids, outputs[0].cache_report)


def _answered(output: RequestOutput, request: CompletionRequest) -> RequestOutput:
    """The replies that the client gets of those that were made."""
    if request.best_of is not None and request.best_of != (request.n or 1):
        keep = request.logprobs is not None
        output = select_best(output, request.n or 1, MeanLogprob(), keep_logprobs=keep)
    if request.max_tokens != 0:
        return output
    # The engine draws at least one token; whoever only wants the prompt scored does not get it.
    empty = tuple(
        replace(reply, text="", token_ids=(), finish_reason="length", logprobs=None if reply.logprobs is None else ())
        for reply in output.outputs
    )
    return replace(output, outputs=empty, usage=replace(output.usage, completion_tokens=0))


def _choice(
    index: int,
    output: RequestOutput,
    reply: CompletionOutput,
    echo: str,
    model: ServedModel,
    request: CompletionRequest,
) -> dict[str, Any]:
    prompt = None
    if request.echo and request.logprobs is not None and output.prompt_logprobs is not None:
        prompt = (output.prompt_token_ids, output.prompt_logprobs)
    choice: dict[str, Any] = {
        "index": index,
        "text": echo + reply.text,
        "logprobs": CompletionLogprobs(model.codec).encode(reply.logprobs, prompt=prompt),
        "finish_reason": reply.finish_reason,
    }
    if request.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, model.codec)
    if reply.score is not None:
        choice["score"] = reply.score
    return choice
