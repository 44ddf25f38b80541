"""What can be wrong with a request whatever the load: token ids, parameters, length.

Above: the engine and the scheduler, which refuse the request before it is queued.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glm_crush.engine.request import Request
from glm_crush.errors import ContextLengthError, InvalidParameterError
from glm_crush.types import SamplingParams

__all__ = ["check_fits", "check_prompt", "check_sampling_params"]


def check_prompt(prompt_token_ids: Sequence[int], vocab_size: int) -> None:
    """Raises InvalidParameterError when the prompt is empty or names a token that does not exist."""
    if len(prompt_token_ids) == 0:
        raise InvalidParameterError("The prompt is empty; give at least one token.", parameter="prompt")
    _check_token_ids("prompt", prompt_token_ids, vocab_size)


def check_sampling_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidParameterError naming the parameter that does not suit the model or contradicts another."""
    _check_token_ids("logit_bias", params.logit_bias, vocab_size)
    _check_token_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidParameterError(
            f"min_tokens is {params.min_tokens} and max_tokens is {params.max_tokens}; lower min_tokens",
            parameter="min_tokens",
        )


def check_fits(request: Request, max_context: int, capacity: int) -> None:
    """Raises ContextLengthError when prompt and reply exceed the context or the KV cache, which holds `capacity`."""
    wanted = request.num_prompt_tokens + request.max_tokens
    numbers = f"The prompt has {request.num_prompt_tokens} tokens and max_tokens is {request.max_tokens}"
    if wanted > max_context:
        raise ContextLengthError(
            f"{numbers}, together {wanted}; the context holds {max_context}. "
            "Shorten the prompt, lower max_tokens or raise the context length.",
            parameter="max_tokens" if request.num_prompt_tokens < max_context else "prompt",
        )
    if request.max_num_cached_tokens > capacity:
        raise ContextLengthError(
            f"{numbers}; the KV cache holds {capacity} tokens. "
            "Shorten the prompt, lower max_tokens or raise kv_cache_tokens.",
            parameter="max_tokens" if request.num_prompt_tokens < capacity else "prompt",
        )


def _check_token_ids(parameter: str, token_ids: Iterable[int], vocab_size: int) -> None:
    lowest, highest = min(token_ids, default=0), max(token_ids, default=0)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidParameterError(
            f"{parameter} contains token id {wrong}; the vocabulary is 0 to {vocab_size - 1}", parameter=parameter
        )
