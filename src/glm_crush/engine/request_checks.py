"""What can be wrong with a request whatever the load: token ids and parameters against the vocabulary.

Above: the engine, which refuses the request before it is queued. Fit to the context is the scheduler's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glm_crush.errors import InvalidParameterError
from glm_crush.types import SamplingParams

__all__ = ["check_prompt", "check_sampling_params"]


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


def _check_token_ids(parameter: str, token_ids: Iterable[int], vocab_size: int) -> None:
    lowest, highest = min(token_ids, default=0), max(token_ids, default=0)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidParameterError(
            f"{parameter} contains token id {wrong}; the vocabulary is 0 to {vocab_size - 1}", parameter=parameter
        )
