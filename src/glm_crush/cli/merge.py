"""`glm merge`: write a model with a LoRA adapter in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli.options import ModelArgument, settings_from

__all__ = ["merge"]


def merge(
    ctx: typer.Context,
    model: ModelArgument,
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The folder of a LoRA adapter (PEFT).")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the merged model.")],
) -> None:
    """Merge a LoRA adapter into a model and write it as a Hugging Face folder.

    Quantised weights are written as bfloat16; quantise the result again with `glm quantize`.
    """
    from glm_crush.cli.console import transfer_bar
    from glm_crush.cli.models import find_model
    from glm_crush.errors import ConfigError
    from glm_crush.weights.adapter import read_adapter
    from glm_crush.weights.checkpoint import open_checkpoint
    from glm_crush.weights.merge import merge_adapter

    path = find_model(settings_from(ctx), model)
    if path.suffix == ".glm":
        raise ConfigError(f"{path} is packed; give the Hugging Face folder it was made from")
    read = read_adapter(adapter)
    checkpoint = open_checkpoint(path)
    with transfer_bar("merging") as progress:
        merge_adapter(checkpoint, read, output, lambda done, total: progress(output.name, done, total))
    typer.echo(f"{output}: {len(read.modules)} modules merged")
