"""`glm list`: the models in the store."""

from __future__ import annotations

import typer

from glm_crush.cli.options import JsonOption, settings_from

__all__ = ["list_models"]


def list_models(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the models in the store."""
    from glm_crush.cli.console import format_age, format_bytes, standard_error, standard_output
    from glm_crush.cli.models import open_store, stored_as_json

    settings = settings_from(ctx)
    models = open_store(settings).list()
    if as_json:
        import json

        typer.echo(json.dumps([stored_as_json(model) for model in models], indent=2))
        return
    if not models:
        standard_error().print(f"[dim]no models yet: glm pull {settings.model.name}[/]")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 3, 0, 0))
    for column in ("name", "size", "since", "from"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for model in models:
        table.add_row(
            f"[cyan]{escape(model.name)}[/]",
            format_bytes(model.bytes),
            format_age(model.modified),
            f"[dim]{escape(model.source)}[/]",
        )
    standard_output().print(table)
