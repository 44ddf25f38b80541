"""`glm selfcheck`: the same tokens however they are computed, on this machine and model."""

from __future__ import annotations

import typer

from glm_crush.cli.options import (
    JsonOption,
    KvDtypeOption,
    ModelArgument,
    ThreadsOption,
    WeightFormatOption,
    settings_from,
)

__all__ = ["selfcheck"]


def selfcheck(
    ctx: typer.Context,
    model: ModelArgument,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    kv_dtype: KvDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that replies are the same alone, batched, chunked, cached, preempted and speculative.

    Exit code 1 if one token differs.
    """
    import json

    from rich.table import Table

    from glm_crush.cli.console import standard_output, step_bar
    from glm_crush.cli.models import find_model, load_packed
    from glm_crush.engine.selfcheck import WAYS
    from glm_crush.engine.selfcheck import selfcheck as check_all

    settings = settings_from(ctx, crush__threads=threads, crush__weight_format=weight_format, crush__kv_dtype=kv_dtype)
    loaded = load_packed(settings, find_model(settings, model))
    results = []
    with step_bar("selfcheck", "ways") as progress:
        for result in check_all(loaded, settings.crush):
            results.append(result)
            progress(len(results), len(WAYS))
    passed = all(result.passed for result in results)
    if as_json:
        rows = [
            {
                "way": result.way.name,
                "passed": result.passed,
                "tokens": result.num_tokens,
                "evidence": result.evidence,
                "difference": result.difference,
            }
            for result in results
        ]
        typer.echo(json.dumps({"model": model, "passed": passed, "ways": rows}))
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("", "way", "computed", "tokens", "shown by"):
            table.add_column(column)
        for result in results:
            mark = (
                "[green]same[/]" if result.passed else "[red]DIFFERS[/]" if result.difference else "[red]not taken[/]"
            )
            shown = result.difference or result.evidence
            table.add_row(mark, result.way.name, result.way.meaning, str(result.num_tokens), shown)
        standard_output().print(table)
    if not passed:
        raise typer.Exit(1)
