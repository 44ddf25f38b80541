"""What the terminal shows: consoles, sizes, error lines and the progress bar of a download.

Results go to standard output; progress, hints and errors go to standard error, so that pipes stay clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["format_bytes", "format_count", "print_error", "standard_error", "standard_output", "transfer_bar"]

Progress = Callable[[str, int, int | None], None]


def standard_output() -> Console:
    """The console of results; plain text when it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False)


def standard_error() -> Console:
    """The console of everything that is not the result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_error(message: str) -> None:
    """One red line on standard error."""
    standard_error().print(f"[bold red]error:[/] [red]{_escape(message)}[/]", soft_wrap=True)


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


@contextmanager
def transfer_bar(description: str) -> Iterator[Progress]:
    """A progress bar on standard error for `progress(what, done_bytes, total_bytes)` callbacks.

    Each distinct `what` gets its own line. Nothing is drawn where standard error is not a terminal.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )

    console = standard_error()
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"{description} {what}".strip(), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield progress
