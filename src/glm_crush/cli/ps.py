"""`glm ps`: the models in the memory of a running server, and how busy they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.options import JsonOption
from glm_crush.cli.server_options import ApiKeyOption, UrlOption, open_client
from glm_crush.cli.verbs import examples

if TYPE_CHECKING:
    from rich.table import Table

    from glm_crush.cli.server_status import ModelStatus, StatusWatch

__all__ = ["EXAMPLES", "ps"]

_REFRESH_SECONDS = 1.0
_SAMPLE_SECONDS = 0.5
EXAMPLES = examples(
    ("glm ps", "the server on this machine"),
    ("glm ps --watch", "again every second, until Ctrl-C"),
    ("glm ps --url http://10.0.0.5:4600 --json", "another one, for scripts"),
)


def ps(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Show the models of a running server: size, cache, requests that run and wait, tokens per second."""
    from glm_crush.cli.console import standard_error, standard_output
    from glm_crush.cli.server_status import StatusWatch

    with open_client(ctx, url, api_key) as client:
        looks = StatusWatch(client)
        rows = looks.look()
        if watch:
            _show_live(looks, rows, as_json=as_json)
            return
        if any(row.running for row in rows):
            time.sleep(_SAMPLE_SECONDS)  # a speed is the difference between two looks
            rows = looks.look()
        if as_json:
            _print_json(rows)
        elif rows:
            standard_output().print(_table(rows))
        else:
            standard_error().print(f"[dim]{client.url} has no model in memory[/]")


def _show_live(looks: StatusWatch, rows: list[ModelStatus], *, as_json: bool) -> None:
    from rich.live import Live

    from glm_crush.cli.console import standard_output

    try:
        if as_json:
            while True:
                _print_json(rows)
                time.sleep(_REFRESH_SECONDS)
                rows = looks.look()
        with Live(_table(rows), console=standard_output(), auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                live.update(_table(looks.look()), refresh=True)
    except KeyboardInterrupt:
        return


def _print_json(rows: list[ModelStatus]) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps([asdict(row) for row in rows]))


def _table(rows: list[ModelStatus]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from glm_crush.cli.console import format_bytes

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    numbers = ("size", "context", "cache", "running", "waiting", "tokens/s")
    for column in ("model", "kind", *numbers, "until"):
        table.add_column(
            column, justify="right" if column in numbers else "left", overflow="fold", no_wrap=column != "model"
        )
    for row in rows:
        table.add_row(
            f"[cyan]{escape(row.model)}[/]",
            row.kind,
            format_bytes(row.size_bytes),
            "-" if row.context_length is None else f"{row.context_length:,}",
            "-" if row.kv_cache_usage is None else f"{row.kv_cache_usage:.0%}",
            "-" if row.running is None else str(row.running),
            "-" if row.waiting is None else str(row.waiting),
            "-" if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}",
            _until(row.until),
        )
    return table


def _until(moment: float | None) -> str:
    if moment is None:
        return "stays"
    left = max(0.0, moment - time.time())
    return f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
