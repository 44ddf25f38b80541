"""Groups of verbs whose help shows a flag as a flag, and examples in two columns.

Below: typer, which writes `<bool>` beside `--json` as if a value were to follow. Above: `main` and the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Verbs", "examples"]

Function = TypeVar("Function", bound=Callable[..., Any])


def examples(*rows: tuple[str, str], note: str = "") -> str:
    """The end of a help text: commands, what each is for in a second column, and a line beneath."""
    width = max(len(command) for command, _ in rows)
    lines = [f"[cyan]{_escape(command.ljust(width))}[/]  [dim]{_escape(what)}[/]" for command, what in rows]
    return "\n".join(["[bold]Examples[/]", "", *lines, *(["", note] if note else [])])


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


class Verbs(typer.Typer):
    """A Typer application, or a part of one, with the help of this command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """See `typer.Typer.command`."""
        return super().command(name, cls=_Verb, **settings)


class _Verb(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _with_plain_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _with_plain_flags(super().get_params(ctx))


def _with_plain_flags(parameters: Any) -> Any:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
