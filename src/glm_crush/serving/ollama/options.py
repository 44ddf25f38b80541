"""Ollama's `options` as sampling parameters and limits; what cannot be done is refused by its name.

Above: chat, generate and create. Below: `SamplingParams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.json_http import explained
from glm_crush.serving.ollama.protocol import Options

__all__ = ["Wanted", "checked_options", "merged_options", "wanted"]

# Ollama's names of fields of SamplingParams.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
_NEUTRAL: Mapping[str, tuple[tuple[object, ...], str]] = {
    "mirostat": ((0,), "use temperature, top_k, top_p, min_p or typical_p"),
    "tfs_z": ((0.0, 1.0), "use typical_p or min_p"),
    "penalize_newline": ((True,), "give true: penalties know no exceptions here"),
    "num_batch": ((), "it is the server's: `--max-num-batched-tokens`"),
    "num_thread": ((0,), "it is the server's: `--threads`"),
    "num_gpu": ((-1, 0), "this server computes on the CPU: give 0"),
    "main_gpu": ((0,), "this server computes on the CPU: give 0"),
    "low_vram": ((False,), "this server computes on the CPU: give false"),
    "use_mmap": ((True,), "weights are always mapped: give true"),
    "use_mlock": ((False,), "weights are never locked: give false"),
    "numa": ((False,), "give false"),
    "f16_kv": ((True,), "it is the server's: `--kv-dtype`"),
    "logits_all": ((False,), "give false"),
    "vocab_only": ((False,), "give false"),
    "embedding_only": ((False,), "give false"),
    "draft_num_predict": ((0,), "give 0"),
}


@dataclass(frozen=True)
class Wanted:
    """What options say.

    Attributes:
        sampling: fields of `SamplingParams`. max_tokens: None = up to the end of the context.
        context_length: of prompt and reply; None = the model's.
    """

    sampling: Mapping[str, Any]
    max_tokens: int | None
    context_length: int | None


def merged_options(defaults: Mapping[str, Any], given: Options | None) -> Options:
    """A request's options over those a model was created with."""
    values = {} if given is None else given.model_dump(exclude_none=True)
    return checked_options({**defaults, **values})


def checked_options(values: Mapping[str, Any]) -> Options:
    """Options of the right types.

    Raises:
        InvalidParameterError: one is unknown or of a wrong type; names it.
    """
    try:
        return Options.model_validate(dict(values))
    except ValidationError as error:
        raise explained(error, Options.model_fields) from None


def wanted(options: Options) -> Wanted:
    """What the options ask for.

    Raises:
        InvalidParameterError: something that this server does not do; names it, and says what else to do.
    """
    for name, (accepted, remedy) in _NEUTRAL.items():
        value = getattr(options, name)
        if value is not None and value not in accepted:
            raise _refusal(name, value, remedy)
    sampling: dict[str, Any] = {
        ours: value for name, ours in _SAMPLING.items() if (value := getattr(options, name)) is not None
    }
    if sampling.get("top_k") == -1:
        sampling["top_k"] = 0
    if options.stop is not None:
        sampling["stop"] = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop)
    if options.repeat_last_n == 0:
        sampling |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    elif options.repeat_last_n not in (None, -1) and not _penalises_nothing(sampling):
        remedy = "penalties look at all tokens here: give -1 (all) or 0 (none)"
        raise _refusal("repeat_last_n", options.repeat_last_n, remedy)
    unlimited = options.num_predict is None or options.num_predict <= 0
    return Wanted(sampling, None if unlimited else options.num_predict, options.num_ctx)


def _penalises_nothing(sampling: Mapping[str, Any]) -> bool:
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return sampling.get("repetition_penalty") == 1.0 and all(sampling.get(n, v) == v for n, v in neutral.items())


def _refusal(name: str, value: object, remedy: str) -> InvalidParameterError:
    return InvalidParameterError(f"options.{name} is {value!r}; {remedy}", parameter=f"options.{name}")
