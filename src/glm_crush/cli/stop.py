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
    from glm_crush.errors import ModelNotFoundError

    with open_client(ctx, url, api_key) as client:
        try:
            client.models.unload(model)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{model} is not in memory at {client.url}; glm ps shows what is") from error
        standard_error().print(f"[green]{escape(model)}[/] is out of memory; it comes back when it is asked for")
