"""The loop of `glm chat`: read a line, run a command or answer, until the user leaves.

Lines come from prompt_toolkit on a terminal (history, completion, editing) and plainly from a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from glm_crush.cli.backend import ChatBackend, Turn
from glm_crush.cli.chat_commands import COMMANDS, ChatCommands, Leave, Rows
from glm_crush.cli.console import print_error, standard_error
from glm_crush.cli.conversation import Conversation
from glm_crush.cli.reply_view import print_reply, print_stats
from glm_crush.errors import GlmError

__all__ = ["ReadLine", "chat_loop", "line_reader"]

ReadLine = Callable[[str], str]

_QUOTES = '"""'


def chat_loop(
    backend: ChatBackend, conversation: Conversation, commands: ChatCommands, read_line: ReadLine, out: TextIO
) -> None:
    """Talk until the user leaves. An error ends the turn, never the chat."""
    while True:
        try:
            line = _read_message(read_line)
        except KeyboardInterrupt:
            standard_error().print("[dim]Ctrl-D or /bye leaves[/]")
            continue
        except EOFError:
            return
        if not line.strip():
            continue
        try:
            outcome = commands.run(line.strip()) if line.startswith("/") else conversation.ask(line)
            if outcome is Leave.CHAT:
                return
            if isinstance(outcome, Turn):
                _answer(backend, conversation, outcome, out)
            else:
                _show(outcome)
        except GlmError as error:
            if not line.startswith("/"):
                conversation.answer("")
            print_error(str(error))


def _show(outcome: str | Rows) -> None:
    """What a command says: text, or rows whose right half wraps beneath itself."""
    from rich.table import Table
    from rich.text import Text

    console = standard_error()
    if isinstance(outcome, str):
        console.print(outcome, style="dim", markup=False)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for left, right in outcome:
        table.add_row(Text(f"  {left}", style="dim"), Text(right, style="dim"))
    console.print(table)


def _answer(backend: ChatBackend, conversation: Conversation, turn: Turn, out: TextIO) -> None:
    text, stats = print_reply(backend.reply(turn), out)
    conversation.answer(text)
    if stats is None:
        standard_error().print("[yellow]stopped[/] [dim](/retry answers again)[/]")
    elif stats.finish_reason == "length":
        standard_error().print("[yellow]the reply reached its limit[/] [dim](/set parameter max_tokens N)[/]")
    if stats is not None and stats.context_note:
        standard_error().print(stats.context_note, style="yellow", markup=False)
    if stats is not None and conversation.verbose:
        print_stats(stats)
    if out.isatty():
        out.write("\n")  # so that an eye finds where a reply ends
        out.flush()


def _read_message(read_line: ReadLine) -> str:
    '''One line, or everything between a pair of `"""`.'''
    line = read_line(">>> ")
    if not line.lstrip().startswith(_QUOTES):
        return line
    lines = [line.lstrip().removeprefix(_QUOTES)]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(read_line("... "))
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    return "\n".join(lines).strip("\n")


def line_reader(history_path: Path) -> ReadLine:
    """How lines are read here: with editing and history on a terminal, plainly from a pipe."""
    if not sys.stdin.isatty():
        return _plain_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.formatted_text import HTML
    from prompt_toolkit.history import FileHistory

    history_path.parent.mkdir(parents=True, exist_ok=True)
    words = sorted({f"/{command.name}" for command in COMMANDS})
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history_path)),
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=False,
    )
    hint = HTML("<ansibrightblack>Send a message (/? for help)</ansibrightblack>")

    def read(prompt: str) -> str:
        label = HTML(f"<ansigreen><b>{prompt.replace('>', '&gt;')}</b></ansigreen>")
        return session.prompt(label, placeholder=hint if prompt.startswith(">") else None)

    return read


def _plain_line(_: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
