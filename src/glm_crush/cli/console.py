"""What the terminal shows: consoles, sizes, error lines and the progress bar of a download.

Results go to standard output; progress, hints and errors go to standard error, so that pipes stay clean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = [
    "format_age",
    "format_bytes",
    "format_count",
    "moment_of",
    "print_error",
    "print_lines",
    "print_warning",
    "standard_error",
    "standard_output",
    "step_bar",
    "transfer_bar",
]

Progress = Callable[[str, int, int | None], None]
# A line in pieces: text, and how a terminal shows it ("" = as it is).
Pieces = Iterable[tuple[str, str]]

_PIPE = 1000  # columns where nobody looks at them


def standard_output() -> Console:
    """The console of results."""
    return _console(stderr=False)


def standard_error() -> Console:
    """The console of everything that is not the result."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """Where it is not a terminal: plain text that breaks no path, no hash and no row of a table."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE
    return console


def print_error(message: str) -> None:
    """One red line on standard error; a terminal breaks it between words."""
    console = standard_error()
    console.print(f"[bold red]error:[/] [red]{_escape(message)}[/]", soft_wrap=not console.is_terminal)


def print_lines(lines: Iterable[Pieces]) -> None:
    """Lines on standard error that a terminal does not break: they can be copied."""
    if not sys.stderr.isatty():
        # Without rich: a server that no terminal watches is ready before it would be imported.
        sys.stderr.writelines("".join(text for text, _ in line) + "\n" for line in lines)
        return
    from rich.text import Text

    for line in lines:
        standard_error().print(Text.assemble(*line), soft_wrap=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def format_bytes(count: float) -> str:
    """Bytes in the unit a person would use: 512 B, 1.5 KiB, 98 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def format_count(count: float) -> str:
    """A large count with a letter: 134.5 M, 1.54 B."""
    for unit in ("", " K", " M", " B"):
        if count < 1000:
            return f"{count:.4g}{unit}"
        count /= 1000
    return f"{count:.4g} T"


def format_age(moment: datetime) -> str:
    """How long ago, roughly: "now", "5 minutes ago", "3 days ago"."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def moment_of(seconds: float) -> datetime:
    """A time of the server as one that can be compared."""
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def transfer_bar(description: str) -> Iterator[Progress]:
    """A progress bar on standard error for `progress(what, done_bytes, total_bytes)` callbacks.

    Each distinct `what` gets its own line; nothing is drawn, nor imported, before the first. Nothing is drawn where
    standard error is not a terminal.
    """
    with ExitStack() as drawn:

        @cache
        def bar() -> RichProgress:
            return drawn.enter_context(_transfer_columns())

        @cache
        def task(what: str) -> TaskID:
            return bar().add_task(f"{description} {what}".strip(), total=None)

        yield lambda what, done, total: bar().update(task(what), completed=done, total=total)


def _transfer_columns() -> RichProgress:
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Speed(ProgressColumn):
        """In the units of the sizes beside it; rich's own column counts in powers of ten."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{format_bytes(speed)}/s" if speed else "", style="progress.data.speed")

    console = standard_error()
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(compact=True),
    )
    return RichProgress(*columns, console=console, disable=not console.is_terminal)


def print_warning(message: str) -> None:
    """One yellow line on standard error; a terminal breaks it between words."""
    console = standard_error()
    console.print(f"[bold yellow]warning:[/] [yellow]{_escape(message)}[/]", soft_wrap=not console.is_terminal)


@contextmanager
def step_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error for `progress(done, total)` callbacks that count `unit`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = standard_error()
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(compact=True),
    )
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
