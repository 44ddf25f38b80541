"""`glm rerank`: which of some documents answer a query best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli.options import JsonOption, ThreadsOption, WeightFormatOption, settings_from

__all__ = ["rerank"]


def rerank(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is asked.")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="DOCUMENT", help="What may answer it.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A cross-encoder, or an embedding model; default: minilm."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A document per line of this file; - reads standard input.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", "-n", min=1, help="Show only so many.")] = None,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put documents in the order in which they answer a query, the best first, each with its score."""
    import json

    from glm_crush.cli.encoders import open_reranker
    from glm_crush.cli.models import read_text

    settings = settings_from(ctx, crush__threads=threads, encoders__weight_format=weight_format)
    given = list(documents or [])
    if file is not None:
        given += [line for line in read_text(file).splitlines() if line.strip()]
    if not given:
        raise typer.BadParameter("give at least one document, or --file")
    reranker = open_reranker(settings, model)
    scores = reranker.score(query, given).scores
    order = sorted(range(len(given)), key=lambda index: (-scores[index], index))[:top]
    if as_json:
        results = [{"index": index, "score": scores[index], "document": given[index]} for index in order]
        typer.echo(json.dumps({"model": reranker.name, "method": reranker.method, "results": results}))
        return
    for index in order:
        typer.echo(f"{scores[index]:7.4f}  {given[index]}")
