"""From a parsed OpenAI request to `SamplingParams`, refusing what this server does not do yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glm_crush.engine.best_of import best_of_params
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest, GenerationRequest
from glm_crush.types import SamplingParams

__all__ = ["chat_sampling_params", "completion_sampling_params"]

DEFAULT_COMPLETION_TOKENS = 16  # what OpenAI's /v1/completions does when max_tokens is not given

# Fields whose name and meaning are those of SamplingParams; None means "the model's default".
_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("n", "seed", "stop_token_ids", "min_tokens", "ignore_eos", "skip_special_tokens"),
    "return_progress",
)


def chat_sampling_params(request: ChatRequest, defaults: SamplingParams) -> SamplingParams:
    """The parameters of a chat completion; the reply may fill the context unless a limit is given.

    Raises:
        InvalidParameterError: a value out of range or not supported; names it.
    """
    _refuse_unsupported_chat(request)
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise InvalidParameterError(
            f"max_tokens is {request.max_tokens} and max_completion_tokens is {request.max_completion_tokens}; "
            "give one of them",
            parameter="max_tokens",
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidParameterError(
            f"top_logprobs is {request.top_logprobs} but logprobs is not true; set logprobs", parameter="top_logprobs"
        )
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    max_tokens = request.max_completion_tokens or request.max_tokens
    return _common(request, defaults, max_tokens=max_tokens, logprobs=logprobs)


def completion_sampling_params(request: CompletionRequest, defaults: SamplingParams) -> SamplingParams:
    """The parameters of a text completion.

    Raises:
        InvalidParameterError: a value out of range or not supported; names it.
    """
    if request.suffix:
        raise _unsupported("suffix", request.suffix, "no suffix")
    if request.max_tokens == 0 and (not request.echo or request.stream):
        raise InvalidParameterError(
            "max_tokens is 0, which scores the prompt: give echo, and not stream", parameter="max_tokens"
        )
    max_tokens = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else max(1, request.max_tokens)
    params = _common(request, defaults, max_tokens=max_tokens, logprobs=request.logprobs)
    if request.echo and request.logprobs is not None:
        params = replace(params, prompt_logprobs=max(request.logprobs, params.prompt_logprobs or 0))
    if request.best_of is None or request.best_of == params.n:
        return params
    if request.stream:
        raise InvalidParameterError(
            f"best_of is {request.best_of} and stream is true; which replies are best is known at the end: "
            "leave one of them out",
            parameter="best_of",
        )
    return best_of_params(params, request.best_of)


def _common(
    request: GenerationRequest, defaults: SamplingParams, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    if request.stream_options is not None and not request.stream:
        raise InvalidParameterError("stream_options is given but stream is not true", parameter="stream_options")
    given: dict[str, Any] = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0  # vLLM's spelling of "all"
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.logit_bias:
        given["logit_bias"] = _logit_bias(request.logit_bias)
    if request.return_progress and (not request.stream or request.use_beam_search):
        why = "beam search tells no progress" if request.stream else "stream is not true"
        raise InvalidParameterError(f"return_progress is true but {why}; leave it out", parameter="return_progress")
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidParameterError(
            "prompt_logprobs is given with stream; leave one of them out", parameter="prompt_logprobs"
        )
    given |= {"max_tokens": max_tokens, "logprobs": logprobs, "prompt_logprobs": request.prompt_logprobs}
    if request.use_beam_search:
        return SamplingParams(**given, **_beams(request))
    for name in ("beam_width", "length_penalty", "early_stopping"):
        if getattr(request, name) is not None:
            raise InvalidParameterError(f"{name} is given without beam search; set use_beam_search", parameter=name)
    return replace(defaults.with_preset(request.preset or "default"), **given)


def _beams(request: GenerationRequest) -> dict[str, Any]:
    """The parameters of a beam search; without `beam_width` there are as many beams as replies, as vLLM has it."""
    for name, neutral in (("temperature", (0, 1)), ("top_p", (1,)), ("top_k", (0, -1)), ("min_p", (0,))):
        if getattr(request, name) not in (None, *neutral):
            raise InvalidParameterError(f"{name} has no part in beam search; leave it out", parameter=name)
    if request.preset is not None:
        raise InvalidParameterError("preset has no part in beam search; leave it out", parameter="preset")
    given = {name: getattr(request, name) for name in ("length_penalty", "early_stopping")}
    width = request.n or 1 if request.beam_width is None else request.beam_width
    return {"beam_width": width} | {name: value for name, value in given.items() if value is not None}


def _logit_bias(bias: Mapping[str, float]) -> dict[int, float]:
    """JSON keys are text; they must be token ids."""
    result = {}
    for key, value in bias.items():
        if not key.isascii() or not key.isdigit():
            raise InvalidParameterError(f"logit_bias has the key {key!r}; give token ids", parameter="logit_bias")
        result[int(key)] = value
    return result


def _refuse_unsupported_chat(request: ChatRequest) -> None:
    """Neutral values pass, anything else is a 400 that names the field."""
    if request.functions:
        raise _unsupported("functions", request.functions, "tools")
    neutral: dict[str, tuple[object, ...]] = {
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "verbosity": (None, "medium"),
        "store": (None, False),
        "metadata": (None, {}),
        "service_tier": (None, "auto", "default"),
        "web_search_options": (None,),
    }
    for name, accepted in neutral.items():
        value = getattr(request, name)
        if value not in accepted:
            alternatives = " or ".join(repr(a) for a in accepted if a is not None)
            raise _unsupported(name, value, f"{alternatives} or leave it out" if alternatives else "no value")


def _unsupported(name: str, value: object, remedy: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{name} is {value!r:.80}, which this server does not support; give {remedy}", parameter=name
    )
