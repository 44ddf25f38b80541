"""`glm guard`: what a policy of the guard does about a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm_crush.cli.options import JsonOption, settings_from

if TYPE_CHECKING:
    from rich.text import Text

    from glm_crush.serving.guard.filters import Filters

__all__ = ["guard"]

_EVERYTHING = "pii=redact, secrets=redact, hidden=redact"
_STYLES = {"redact": "bold black on green", "flag": "bold black on yellow", "block": "bold white on red"}


def guard(
    ctx: typer.Context,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What is looked at.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Look at this file instead; - reads standard input.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="Such as 'pii=redact, secrets=block'; default: as configured, or all."),
    ] = None,
    direction: Annotated[
        Literal["input", "output"], typer.Option("--direction", "-d", help="As a request or as a reply.")
    ] = "input",
    as_json: JsonOption = False,
) -> None:
    """Show what the guard does about a text, with the findings marked; the exit status is 1 when it is blocked."""
    import asyncio
    import json

    from glm_crush.cli.console import standard_output
    from glm_crush.cli.models import read_text
    from glm_crush.serving.guard.build import build_guard
    from glm_crush.serving.guard.filters import Filters
    from glm_crush.serving.guard.policy import parse_actions

    settings = settings_from(ctx).guard
    if (text is None) == (file is None):
        raise typer.BadParameter("give a text or --file")
    given = text if file is None else read_text(file)
    built = build_guard(settings)
    configured = settings.input if direction == "input" else settings.output
    everything = f"{_EVERYTHING}, injection=flag" if direction == "input" else _EVERYTHING
    filters = Filters(parse_actions(policy or configured or everything, built.book, direction), built.book)
    done = filters.apply(str(given))
    found = list(done.found)
    blocked_by = done.blocked_by
    for check, action in filters.checks:
        if asyncio.run(check.applies(done.text, direction)):
            found.append((check.name, action))
            blocked_by = blocked_by or (check.name if action == "block" else None)
    score = built.injections.score(str(given))
    if as_json:
        facts = {"text": None if blocked_by else done.text, "blocked_by": blocked_by, "injection_score": score.score}
        findings = [{"rule": rule, "action": action} for rule, action in found]
        typer.echo(json.dumps({**facts, "findings": findings}, ensure_ascii=False))
    else:
        console = standard_output()
        console.print(_marked(filters, str(given)), soft_wrap=True)
        for rule, action in dict.fromkeys(found):
            console.print(f"{action:7} {rule:24} {found.count((rule, action))}", highlight=False)
        signs = f" ({', '.join(score.signs)})" if score.signs else ""
        console.print(f"injection score {score.score:.2f}{signs}", highlight=False)
        if blocked_by is not None:
            console.print(f"[bold red]blocked[/] by {blocked_by}", highlight=False)
    raise typer.Exit(1 if blocked_by is not None else 0)


def _marked(filters: Filters, given: str) -> Text:
    """The text with what is found in colour; what is redacted is its rule's name, as nobody is to read it."""
    from rich.text import Text

    shown = Text()
    last: str | None = None
    for piece, rule, action in filters.marked(given):
        if action is None:
            shown.append(piece)
        elif action == "redact":
            shown.append(f" {rule} " if rule != last else "", style=_STYLES[action])
        else:
            shown.append(piece, style=_STYLES[action])
        last = rule
    return shown
