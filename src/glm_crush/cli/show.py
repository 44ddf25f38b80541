"""`glm show`: one model of the store, its origin, its sampling defaults and its chat template."""

from __future__ import annotations

from typing import Annotated

import typer

from glm_crush.cli.options import JsonOption, NameArgument, settings_from

__all__ = ["show"]

_LABELS = {"bytes": "size", "linked": "registered path", "files": "files (SHA-256)"}


def show(
    ctx: typer.Context,
    name: NameArgument,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a model: where it came from, its files and hashes, its sampling defaults, its chat template."""
    import json

    from rich.markup import escape
    from rich.table import Table

    from glm_crush.cli.console import format_bytes, standard_output
    from glm_crush.cli.models import open_store, stored_as_json
    from glm_crush.errors import TemplateError
    from glm_crush.weights.checkpoint import open_checkpoint
    from glm_crush.weights.packed_file import PackedFile

    store = open_store(settings_from(ctx))
    model = store.show(name)
    path = store.resolve(name)
    checkpoint = PackedFile.open(path).header if path.suffix == ".glm" else open_checkpoint(path)
    if template:
        if checkpoint.chat_template is None:
            raise TemplateError(f"{name} has no chat template")
        typer.echo(checkpoint.chat_template)
        return
    row = stored_as_json(model) | {
        "model_type": checkpoint.config.get("model_type"),
        "generation_config": dict(checkpoint.generation_config),
        "chat_template": checkpoint.chat_template,
    }
    if as_json:
        typer.echo(json.dumps(row, indent=2, default=str))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in (row | {"bytes": f"{format_bytes(model.bytes)} ({model.bytes:,})"}).items():
        if key == "chat_template":
            value = f"{len(value)} characters (--template prints it)" if value else "none"
        elif isinstance(value, dict):
            value = "\n".join(f"{item} {name}" if key == "files" else f"{name} {item}" for name, item in value.items())
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        table.add_row(_LABELS.get(key, key.replace("_", " ")), escape(str(value or "none")))
    standard_output().print(table)
