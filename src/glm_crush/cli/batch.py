"""`glm batch`: many requests from a file, run by a server when nobody waits for an answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.options import JsonOption
from glm_crush.cli.server_options import ApiKeyOption, UrlOption, open_client
from glm_crush.cli.verbs import Verbs, examples

if TYPE_CHECKING:
    from glm_crush.client import Batch

__all__ = ["app"]

_EXAMPLES = examples(
    ("glm batch run questions.jsonl -o answers.jsonl", "submit, wait, fetch; again to go on after Ctrl-C"),
    ("glm batch submit questions.jsonl", "prints the id"),
    ("glm batch results batch_24b5... > answers.jsonl", "what is done"),
    note='A line is [cyan]{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}[/].',
)

app = Verbs(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=_EXAMPLES,
    help="Run many requests from a file, when nobody waits for an answer.",
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A request on each line, in OpenAI's form.", exists=True, dir_okay=False)
]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch (see glm batch list).")]
WindowOption = Annotated[str, typer.Option("--window", metavar="TIME", help="How long it may take: from 1m to 30d.")]


@app.callback()
def batch() -> None:
    """Run many requests from a file, when nobody waits for an answer."""


@app.command("run")
def run(
    ctx: typer.Context,
    file: FileArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the results go, line by line.")],
    window: WindowOption = "24h",
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Submit a file, wait, and write the results: the same command goes on where an earlier one was stopped.

    What was submitted is remembered beside the results until they are written. Exit code 1 if a request failed.
    """
    from glm_crush.cli.batch_run import BatchRun
    from glm_crush.cli.console import print_warning, standard_error

    with open_client(ctx, url, api_key) as client:
        work = BatchRun(client, file, output)
        submitted = work.resume() or work.submit(window)
        try:
            ended = work.wait(submitted)
        except KeyboardInterrupt:
            print_warning(f"{submitted.id} goes on; the same command waits for it, glm batch cancel ends it")
            raise typer.Exit(130) from None
        work.write(ended)
    counts = ended.request_counts
    left = counts.total - counts.done
    tail = f", {left} not run ({ended.status})" if left else ""
    standard_error().print(f"{counts.completed} answered, {counts.failed} failed{tail}: {output}", soft_wrap=True)
    if counts.failed or left:
        raise typer.Exit(1)


@app.command("submit")
def submit(
    ctx: typer.Context,
    file: FileArgument,
    window: WindowOption = "24h",
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Submit a file and print the id of its batch."""
    from glm_crush.cli.batch_run import submit_file

    with open_client(ctx, url, api_key) as client:
        submitted = submit_file(client, file, window)
    if as_json:
        _print_json(submitted)
    else:
        typer.echo(submitted.id)


@app.command("list")
def list_batches(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The newest so many.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List batches, the newest first."""
    from itertools import islice

    with open_client(ctx, url, api_key) as client:
        found = list(islice(client.batches.list(page_size=min(limit, 100)), limit))
    if as_json:
        import json

        typer.echo(json.dumps([batch.to_dict() for batch in found], indent=2))
        return
    from rich.table import Table

    from glm_crush.cli.console import format_age, moment_of, standard_error, standard_output

    if not found:
        standard_error().print("[dim]no batches yet: glm batch submit FILE[/]")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("batch", "status", "done", "failed", "total", "since"):
        right = column in ("done", "failed", "total")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for row in found:
        counts = row.request_counts
        numbers = (str(counts.done), str(counts.failed), str(counts.total))
        since = format_age(moment_of(row.created_at))
        table.add_row(f"[cyan]{row.id}[/]", row.status, *numbers, since)
    standard_output().print(table)


@app.command("show")
def show(ctx: typer.Context, batch_id: BatchArgument, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Show one batch as JSON: status, counts, files, and what is wrong with its input."""
    with open_client(ctx, url, api_key) as client:
        _print_json(client.batches.get(batch_id))


@app.command("cancel")
def cancel(ctx: typer.Context, batch_id: BatchArgument, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Stop a batch; what is done stays, and glm batch results has it."""
    from glm_crush.cli.console import standard_error

    with open_client(ctx, url, api_key) as client:
        stopped = client.batches.cancel(batch_id)
    standard_error().print(f"{stopped.id} is {stopped.status}")


@app.command("results")
def results(
    ctx: typer.Context,
    batch_id: BatchArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Write them there; default: standard output.")
    ] = None,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Write the results of a batch that has ended: answers, then errors, each in the order of the input."""
    from glm_crush.cli.batch_run import check_ended, result_lines, write_lines

    with open_client(ctx, url, api_key) as client:
        ended = check_ended(client.batches.get(batch_id))
        if output is not None:
            write_lines(result_lines(client, ended), output)
            return
        for line in result_lines(client, ended):
            typer.echo(line)


def _print_json(batch: Batch) -> None:
    import json

    typer.echo(json.dumps(batch.to_dict(), indent=2))
