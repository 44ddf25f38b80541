"""`glm logs`: the log of a running server, the newest lines and those to come."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm_crush.cli.options import JsonOption, settings_from
from glm_crush.cli.server_options import ApiKeyOption, UrlOption
from glm_crush.cli.verbs import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from glm_crush.client import Client, LogLine
    from glm_crush.client.log_feed import LogFeed

__all__ = ["EXAMPLES", "logs"]

_MOST = 1000  # lines that a server keeps
_COLOURS = {"debug": "dim", "info": "cyan", "warning": "yellow", "error": "bold red", "critical": "bold red"}
EXAMPLES = examples(
    ("glm logs", "the newest lines"),
    ("glm logs -f --level warning", "go on, until Ctrl-C, with what is serious"),
    ("glm logs -n 1000 --request req_24b5...", "what happened to one request"),
)


class LogLevel(StrEnum):
    """How serious a line is."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def logs(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=_MOST, help="Newest lines to begin with.")] = 100,
    level: Annotated[
        LogLevel, typer.Option("--level", help="Only lines that are at least so serious.")
    ] = LogLevel.info,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Only lines of the request with this id.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Show the log of a running server: requests, warnings, errors; no prompt and no reply is in it.

    It needs a key with the scope admin. For the server on this machine one is made when it is first needed.
    """
    from glm_crush.cli.operator_key import as_operator

    settings = settings_from(ctx, client__url=url, api__key=api_key)

    def subscribe(client: Client) -> LogFeed:
        chosen_level: Any = level.value
        return client.logs(chosen_level, recent=lines).__enter__()  # it has a connection of its own

    with as_operator(settings, subscribe) as feed:
        chosen = feed if follow else islice(feed, feed.num_recent)
        show = _print_json if as_json else _printer()
        try:
            for line in chosen:
                if request is None or line.request_id == request:
                    show(line)
        except KeyboardInterrupt:
            return


def _print_json(line: LogLine) -> None:
    import json

    typer.echo(json.dumps(line.to_dict(), ensure_ascii=False))


def _printer() -> Callable[[LogLine], None]:
    """Shows lines to people."""
    from datetime import datetime

    from rich.markup import escape

    from glm_crush.cli.console import print_warning, standard_output

    console = standard_output()

    def show(line: LogLine) -> None:
        if line.lost:
            print_warning(f"{line.lost} lines came faster than they were read and are not here")
        moment = datetime.fromtimestamp(line.time).astimezone()
        level = f"[{_COLOURS.get(line.level, 'cyan')}]{line.level:<7}[/]"
        console.print(f"[dim]{moment:%H:%M:%S}[/] {level} {escape(line.message)}", soft_wrap=True)

    return show
