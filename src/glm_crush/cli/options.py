"""Options and arguments that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.completion import stored_names

if TYPE_CHECKING:
    from glm_crush.config import Settings

__all__ = [
    "ContextPolicy",
    "ContextPolicyOption",
    "DraftModelOption",
    "EngineOption",
    "EnginePlace",
    "JsonOption",
    "KvDtype",
    "KvDtypeOption",
    "LoraModulesOption",
    "ModelArgument",
    "NameArgument",
    "PrefixStoreBytesOption",
    "PrefixStoreOption",
    "RootOptions",
    "Speculation",
    "SpeculationOption",
    "ThreadsOption",
    "WeightFormat",
    "WeightFormatOption",
    "duration",
    "lora_modules",
    "root_options",
    "settings_from",
]


class WeightFormat(StrEnum):
    """Run-time weight formats that a user may ask for."""

    auto = "auto"
    q4 = "q4"
    q8 = "q8"
    bf16 = "bf16"
    f32 = "f32"


class ContextPolicy(StrEnum):
    """What becomes of conversations that are too long."""

    refuse = "refuse"
    truncate = "truncate"
    window = "window"
    summarise = "summarise"


class EnginePlace(StrEnum):
    """Where a server's engine runs."""

    process = "process"
    in_process = "in-process"


class KvDtype(StrEnum):
    """Types of the KV cache."""

    auto = "auto"
    bf16 = "bf16"
    int8 = "int8"
    f32 = "f32"


class Speculation(StrEnum):
    """Who may guess tokens ahead."""

    auto = "auto"
    off = "off"
    prompt_lookup = "prompt_lookup"
    draft = "draft"
    mtp = "mtp"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A store name, a GGUF file, a Hugging Face folder or a packed .glm file.",
        autocompletion=stored_names,
    ),
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A name in the store (see glm list).", autocompletion=stored_names)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", "-t", metavar="N", min=1, help="Compute threads; default: physical cores."),
]
WeightFormatOption = Annotated[
    WeightFormat | None,
    typer.Option("--weight-format", "-w", help="Run-time weights; default: as the source has them."),
]
ContextPolicyOption = Annotated[
    ContextPolicy | None,
    typer.Option("--context-policy", help="What becomes of a conversation that is too long; default: refuse."),
]
EngineOption = Annotated[
    EnginePlace | None, typer.Option("--engine", help="Where the engine runs: a process of its own, or this one.")
]
KvDtypeOption = Annotated[
    KvDtype | None, typer.Option("--kv-dtype", help="Type of the KV cache; default: int8 beside 4 and 8-bit weights.")
]
DraftModelOption = Annotated[
    str | None,
    typer.Option("--draft-model", metavar="MODEL", help="Small model with the same tokens that guesses them ahead."),
]
SpeculationOption = Annotated[
    Speculation | None, typer.Option("--speculation", help="Who guesses tokens ahead; replies are the same.")
]
PrefixStoreOption = Annotated[
    str | None,
    typer.Option("--prefix-store", metavar="DIR", help="Keep computed prompts there, for after a restart too."),
]
PrefixStoreBytesOption = Annotated[
    str | None,
    typer.Option("--prefix-store-bytes", metavar="BYTES", help="What this folder may take; default: 4GiB."),
]
LoraModulesOption = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="NAME=PATH", help="Serve this LoRA adapter too, as model NAME; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text for people.")]


@dataclass(frozen=True)
class RootOptions:
    """What was given before the verb: a configuration file and `--set` values."""

    config_path: Path | None = None
    flags: Mapping[str, object] = field(default_factory=dict)


def root_options(config: Path | None, assignments: list[str]) -> RootOptions:
    """Read the options of the root command.

    Raises:
        typer.BadParameter: an assignment is not `section.name=value`.
    """
    flags: dict[str, object] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or "." not in key:
            raise typer.BadParameter(f"{assignment!r} is not section.name=value", param_hint="--set")
        flags[key.strip()] = value.strip()
    return RootOptions(config, flags)


def lora_modules(given: list[str] | None) -> list[tuple[str, Path]]:
    """Name and folder of each adapter of `--lora`.

    Raises:
        typer.BadParameter: one is not NAME=PATH.
    """
    modules = []
    for text in given or []:
        name, _, path = text.partition("=")
        if not name.strip() or not path.strip():
            raise typer.BadParameter(f"{text!r} is not NAME=PATH", param_hint="--lora")
        modules.append((name.strip(), Path(path.strip()).expanduser().absolute()))
    return modules


def duration(text: str | None, option: str) -> float | str | None:
    """Seconds from text such as 90, 5m or 1h30m; negative ones are for ever, which settings call "none".

    Raises:
        typer.BadParameter: it is neither.
    """
    if text is None:
        return None
    from glm_crush.errors import InvalidParameterError
    from glm_crush.serving.keep_alive import keep_alive_seconds

    try:
        seconds = keep_alive_seconds(text)
    except InvalidParameterError:
        raise typer.BadParameter(f"{text!r} is no duration such as 90, 5m or 1h30m", param_hint=option) from None
    return "none" if seconds == math.inf else seconds


def settings_from(ctx: typer.Context, **flags: object) -> Settings:
    """The settings of this invocation; flags are named `section__name`, None = not given.

    Raises:
        ConfigError: see `load_settings`.
    """
    from glm_crush.config import load_settings

    root = ctx.obj if isinstance(ctx.obj, RootOptions) else RootOptions()
    given = {key.replace("__", ".", 1): value for key, value in flags.items() if value is not None}
    return load_settings(config_path=root.config_path, flags={**root.flags, **given})
