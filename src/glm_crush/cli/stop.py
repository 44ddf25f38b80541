"""`glm stop`: take a model out of the memory of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from glm_crush.cli.server_options import ApiKeyOption, UrlOption, open_client

__all__ = ["EXAMPLES", "stop"]

EXAMPLES = """
[bold]Examples[/]

  [cyan]glm stop smollm2:135m[/]  [dim]its memory is free when its requests have ended[/]

  [cyan]glm ps[/]  [dim]what is in memory[/]
"""


def stop(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that glm ps shows.")],
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Take a model out of a running server's memory; requests that run end first, the server goes on."""
    from rich.markup import escape

    from glm_crush.cli.console import standard_error

    with open_client(ctx, url, api_key) as client:
        client.models.unload(model)
        standard_error().print(f"[green]{escape(model)}[/] is out of memory; it comes back when it is asked for")
