"""`glm perplexity`: how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli.options import (
    JsonOption,
    KvDtypeOption,
    ModelArgument,
    ThreadsOption,
    WeightFormatOption,
    settings_from,
)

__all__ = ["perplexity"]


def perplexity(
    ctx: typer.Context,
    model: ModelArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A text file, UTF-8.", exists=True, dir_okay=False, allow_dash=True)
    ],
    context: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a window, whose second half is scored; default: 512.")
    ] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows to score; default: the whole text.")] = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    kv_dtype: KvDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity, counted as llama.cpp does: lower is better."""
    from glm_crush.cli.console import step_bar
    from glm_crush.cli.models import find_model, load_packed, read_text
    from glm_crush.cli.perplexity_run import measure_perplexity

    settings = settings_from(ctx, crush__threads=threads, crush__weight_format=weight_format, crush__kv_dtype=kv_dtype)
    text = read_text(file)
    loaded = load_packed(settings, find_model(settings, model))
    with step_bar("perplexity", "windows") as progress:
        result = measure_perplexity(
            loaded, settings.crush, text, context=context, max_windows=windows, progress=progress
        )
    if as_json:
        import json
        from dataclasses import asdict

        row = {"perplexity": result.value, **asdict(result), "model": model}
        typer.echo(json.dumps({key: value for key, value in row.items() if key != "value"}))
        return
    typer.echo(f"perplexity {result.value:.4f} +/- {result.error:.4f} over {result.num_tokens:,} tokens")
