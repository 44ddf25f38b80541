"""The sampling options of `glm run` and `glm chat`, and the same values set from the chat by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from glm_crush.errors import InvalidParameterError
from glm_crush.types import PRESETS, SamplingParams

__all__ = [
    "SETTABLE",
    "MaxTokensOption",
    "MinPOption",
    "PresetOption",
    "RepetitionPenaltyOption",
    "SeedOption",
    "StopOption",
    "TemperatureOption",
    "TopKOption",
    "TopPOption",
    "given_params",
    "set_parameter",
]

_PANEL = "Sampling (default: as the model's publisher says)"

TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", "-T", help="0 = always the likeliest token.", rich_help_panel=_PANEL)
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", help="Smallest set of tokens with this mass.", rich_help_panel=_PANEL)
]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="The k likeliest, 0 = all.", rich_help_panel=_PANEL)]
MinPOption = Annotated[
    float | None, typer.Option("--min-p", help="Drop tokens below this share of the likeliest.", rich_help_panel=_PANEL)
]
RepetitionPenaltyOption = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1 repeats less.", rich_help_panel=_PANEL)
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Same seed, same reply.", rich_help_panel=_PANEL)]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Longest reply; default: up to the context.", rich_help_panel=_PANEL),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help="End the reply before this text; may be repeated.", rich_help_panel=_PANEL),
]

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"Sampling by purpose: {', '.join(PRESETS)}; the options below change it.",
        rich_help_panel=_PANEL,
    ),
]

# What ollama and llama.cpp users type.
_ALIASES: Mapping[str, str] = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
_INTEGERS = ("top_k", "seed", "max_tokens", "min_tokens")
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


# What `/set parameter` takes, in the order in which it is shown.
SETTABLE: tuple[str, ...] = (*_NUMBERS, *_INTEGERS, "stop")


def given_params(defaults: SamplingParams, *, preset: str | None = None, **given: Any) -> SamplingParams:
    """The model's defaults, or a preset's, with what the user gave; no length limit unless given.

    Raises:
        InvalidParameterError: a value out of its range, or no such preset.
    """
    set_values = {name: value for name, value in given.items() if value is not None and value != []}
    defaults = SamplingParams() if "beam_width" in set_values else defaults.with_preset(preset or "default")
    return replace(defaults, **{"max_tokens": None, **set_values})


def set_parameter(params: SamplingParams, name: str, text: str) -> SamplingParams:
    """`/set parameter name value` of the chat.

    Raises:
        InvalidParameterError: no such parameter, or a value it does not take.
    """
    name = _ALIASES.get(name, name)
    if name == "stop":
        return replace(params, stop=(*params.stop, text))
    if name not in (*_INTEGERS, *_NUMBERS):
        near = difflib.get_close_matches(name, SETTABLE, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTABLE)}"
        raise InvalidParameterError(f"there is no parameter {name!r}; {hint}", parameter=name)
    if text.lower() == "none" and name in ("seed", "max_tokens"):
        changed: dict[str, Any] = {name: None}
        return replace(params, **changed)
    try:
        changed = {name: int(text) if name in _INTEGERS else float(text)}
    except ValueError:
        raise InvalidParameterError(f"{name} is {text!r}; give a number", parameter=name) from None
    return replace(params, **changed)
