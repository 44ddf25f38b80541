"""The sampling that a model's publisher recommends: generation_config.json as `SamplingParams`.

Above: `llm` and the composition root. Below: `types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_crush.errors import CheckpointError, InvalidParameterError
from glm_crush.types import SamplingParams

__all__ = ["sampling_defaults"]

_NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")


def sampling_defaults(generation_config: Mapping[str, object]) -> SamplingParams:
    """What a request that states nothing gets; replies may go on to the end of the context.

    `do_sample: false` means greedy, whatever temperature stands beside it.

    Raises:
        CheckpointError: a value is not a number or out of range; names the key.
    """
    values: dict[str, Any] = {}
    for name in (*_NUMBERS, "top_k"):
        value = generation_config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"generation_config.json: {name} is {value!r}; it must be a number")
        values[name] = value
    if generation_config.get("do_sample") is False:
        values = {"temperature": 0.0, "repetition_penalty": values.get("repetition_penalty", 1.0)}
    top_k = int(values.pop("top_k", 0))
    try:
        return SamplingParams(**values, top_k=top_k, max_tokens=None)
    except InvalidParameterError as error:
        raise CheckpointError(f"generation_config.json: {error}") from error
