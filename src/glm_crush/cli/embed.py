"""`glm embed`: texts to vectors, one JSON array a line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli.options import JsonOption, ThreadsOption, WeightFormatOption, settings_from

__all__ = ["embed"]


class PoolingChoice(StrEnum):
    """How the vectors of tokens become one."""

    mean = "mean"
    first = "first"
    last = "last"


def embed(
    ctx: typer.Context,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="What to embed.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A store name or a path; default: minilm.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A text per line of this file; - reads standard input.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="query or document, for models that tell them apart.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option("--dimensions", min=1, help="Keep only so many numbers.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    pooling: Annotated[
        PoolingChoice | None, typer.Option("--pooling", help="Make an embedding model of a model that generates.")
    ] = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors: a JSON array of numbers for each, or one object with --json."""
    import json

    from glm_crush.cli.encoders import open_embedder
    from glm_crush.cli.models import read_text

    settings = settings_from(ctx, crush__threads=threads, encoders__weight_format=weight_format)
    given = list(texts or [])
    if file is not None:
        given += [line for line in read_text(file).splitlines() if line.strip()]
    if not given:
        raise typer.BadParameter("give at least one text, or --file")
    embedder = open_embedder(settings, model, None if pooling is None else pooling.value)
    done = embedder.embed(given, kind=kind, dimensions=dimensions, truncate=truncate)
    # As many digits as a float32 has: 0.13023721 and not 0.13023720681667328.
    vectors = [[float(f"{value:.9g}") for value in vector] for vector in done.vectors.tolist()]
    if as_json:
        typer.echo(json.dumps({"model": embedder.name, "num_tokens": done.num_tokens, "embeddings": vectors}))
        return
    for vector in vectors:
        typer.echo(json.dumps(vector))
