"""`glm cp`: give a model another name."""

from __future__ import annotations

from typing import Annotated

import typer

from glm_crush.cli.options import NameArgument, settings_from

__all__ = ["cp"]


def cp(
    ctx: typer.Context,
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="The other name.")],
) -> None:
    """Give a model another name; its files are shared, not copied."""
    from rich.markup import escape

    from glm_crush.cli.console import standard_error
    from glm_crush.cli.models import open_store

    open_store(settings_from(ctx)).copy(name, new_name)
    standard_error().print(f"[green]{escape(new_name)}[/] is {escape(name)}")
