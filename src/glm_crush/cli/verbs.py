"""Groups of verbs whose help shows a flag as a flag, and examples in two columns; verbs imported when asked for.

Below: typer, which writes `<bool>` beside `--json` as if a value were to follow. Above: `main` and the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

__all__ = ["DeferredVerb", "DeferredVerbs", "Verbs", "examples"]

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

    def __init__(self, cls: type[TyperGroup] | None = None, **settings: Any) -> None:
        super().__init__(cls=cls or _Group, **settings)

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


@dataclass(frozen=True)
class DeferredVerb:
    """A verb, or a group of verbs, of a module that is imported when somebody asks for it.

    Attributes:
        place: "module:name" of the function or of the `Verbs`; `EXAMPLES` of the module end a function's help.
        panel: where help lists it. hidden: help does not.
    """

    place: str
    panel: str
    hidden: bool = False

    def command(self, name: str) -> Any:
        """The command of this name."""
        module_name, _, attribute = self.place.partition(":")
        module = import_module(module_name)
        found = getattr(module, attribute)
        alone = Verbs()
        if isinstance(found, Verbs):
            alone.add_typer(found, name=name, rich_help_panel=self.panel, hidden=self.hidden)
        else:
            epilog = getattr(module, "EXAMPLES", None)
            alone.command(name, rich_help_panel=self.panel, hidden=self.hidden, epilog=epilog)(found)
        return get_group(alone).commands[name]


class DeferredVerbs(_Group):
    """A group of verbs of which only those are imported that somebody asks for; help asks for all of them.

    Attributes:
        deferred: the verbs by name, in the order of the help; set by a subclass.
    """

    deferred: ClassVar[Mapping[str, DeferredVerb]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast("MutableMapping[str, Any]", _Commands(self.deferred))


class _Commands(Mapping[str, Any]):
    def __init__(self, deferred: Mapping[str, DeferredVerb]) -> None:
        self._deferred = deferred
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._deferred[name].command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._deferred)

    def __len__(self) -> int:
        return len(self._deferred)
