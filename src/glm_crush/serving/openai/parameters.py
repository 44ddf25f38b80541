"""From a parsed OpenAI request to `SamplingParams`, refusing what this server does not do yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
    replies = request.n or 1
    if request.best_of is not None and request.best_of != replies:
        raise _unsupported("best_of", request.best_of, f"{replies} (the value of n) or leave it out")
    if request.suffix:
        raise _unsupported("suffix", request.suffix, "no suffix")
    max_tokens = request.max_tokens or DEFAULT_COMPLETION_TOKENS
    params = _common(request, defaults, max_tokens=max_tokens, logprobs=request.logprobs)
    return replace(params, prompt_logprobs=request.logprobs) if request.echo else params


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
    return replace(defaults, max_tokens=max_tokens, logprobs=logprobs, **given)


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
        raise _unsupported("functions", f"a list of {len(request.functions)}", "tools")
    neutral: dict[str, tuple[object, ...]] = {
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "reasoning_effort": (None,),
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
        f"{name} is {value!r}, which this server does not support; give {remedy}", parameter=name
    )
