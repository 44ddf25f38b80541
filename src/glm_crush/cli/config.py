"""`glm config show`: every setting, its value and where it came from."""

from __future__ import annotations

import typer

from glm_crush.cli.options import JsonOption, settings_from
from glm_crush.cli.verbs import Verbs

__all__ = ["app"]

_WIDE = 130  # columns from which the meanings fit on one line

app = Verbs(no_args_is_help=True, help="Look at the configuration.")


@app.callback()
def config() -> None:
    """Look at the configuration."""


@app.command("show")
def show(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show every setting, its value and where it came from.

    Sources, later ones win: defaults, GLM_HOME/config.toml (or --config), environment, flags (or --set).
    """
    from glm_crush.cli.console import standard_output

    settings = settings_from(ctx)
    rows = [(s.key, "********" if s.secret and s.value else s.value, s.origin, s.help) for s in settings.describe()]
    console = standard_output()
    if as_json:
        import json

        values = {key: {"value": value, "origin": origin} for key, value, origin, _ in rows}
        typer.echo(json.dumps(values, default=str, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    wide = console.width >= _WIDE
    columns = [("setting", "cyan"), ("value", "bold"), ("from", "green"), *([("meaning", "dim")] if wide else [])]
    for column, style in columns:
        table.add_column(column, style=style, no_wrap=column == "setting", overflow="fold")
    for key, value, origin, meaning in rows:
        shown = "[dim]unset[/]" if value is None else escape(str(value))
        source = f"[dim]{origin}[/]" if origin == "default" else escape(origin)
        table.add_row(key, shown, source, *([escape(meaning)] if wide else []))
    console.print(table)
