"""The `/` commands of `glm chat`: a table of names, what they do, and what they print.

Below: `Conversation`, which they change. They know nothing of how lines are read or replies are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from glm_crush.cli.backend import ChatBackend, Turn
from glm_crush.cli.conversation import Conversation
from glm_crush.cli.sampling_options import SETTABLE, set_parameter
from glm_crush.errors import RequestError
from glm_crush.types import SamplingParams

__all__ = ["COMMANDS", "ChatCommands", "Command", "Leave", "Outcome", "Rows"]


class Leave(Enum):
    """The user is done."""

    CHAT = auto()


# Names with what they mean, in two columns.
Rows = Sequence[tuple[str, str]]
# What a command leads to: text to print (a str), rows to print, a turn to answer, or the end.
Outcome = str | Rows | Turn | Leave


@dataclass(frozen=True)
class Command:
    """One line of `/?`."""

    name: str
    usage: str
    meaning: str


COMMANDS: tuple[Command, ...] = (
    Command("set", "/set parameter NAME VALUE", "sampling: temperature, top_p, top_k, seed, max_tokens, stop, ..."),
    Command("set", "/set history|nohistory", "remember the conversation, or answer every message alone"),
    Command("show", "/show [model|parameters|system|messages]", "what is loaded and set"),
    Command("system", "/system [TEXT]", "set the system prompt; without TEXT remove it"),
    Command("clear", "/clear", "forget the conversation so far"),
    Command("retry", "/retry", "answer the last message again"),
    Command("save", "/save NAME", "keep this chat"),
    Command("load", "/load NAME", "go on with a kept chat"),
    Command("think", "/think", "let the model reason before it answers (where its template can)"),
    Command("nothink", "/nothink", "answer at once"),
    Command("verbose", "/verbose", "show tokens and speed after each reply, or stop doing so"),
    Command("bye", "/bye", "leave (also Ctrl-D)"),
    Command("?", "/?", "this list"),
)


class ChatCommands:
    """Carries out commands on one conversation."""

    def __init__(self, conversation: Conversation, backend: ChatBackend, chats_folder: Path) -> None:
        self._conversation = conversation
        self._backend = backend
        self._chats_folder = chats_folder
        self._handlers: dict[str, Callable[[str], Outcome]] = {
            "set": self._set,
            "show": self._show,
            "system": self._system,
            "clear": self._clear,
            "retry": lambda _: conversation.retry(),
            "save": self._save,
            "load": self._load,
            "think": lambda _: self._think(True),
            "nothink": lambda _: self._think(False),
            "verbose": lambda _: self._verbose(),
            "bye": lambda _: Leave.CHAT,
            "exit": lambda _: Leave.CHAT,
            "quit": lambda _: Leave.CHAT,
            "?": lambda _: _help(),
            "help": lambda _: _help(),
        }

    def run(self, line: str) -> Outcome:
        """Carry out one line that starts with a slash.

        Raises:
            GlmError: unknown, misused or failed; says what to do instead.
        """
        name, _, argument = line[1:].partition(" ")
        handler = self._handlers.get(name)
        if handler is None:
            raise RequestError(f"there is no command /{name}; /? lists the commands")
        return handler(argument.strip())

    def _set(self, argument: str) -> str:
        conversation = self._conversation
        words = argument.split(None, 2)
        match words:
            case ["parameter", name, value]:
                conversation.params = set_parameter(conversation.params, name, value)
                return f"{name} is now {value}"
            case ["history" | "nohistory" as choice]:
                conversation.keep_history = choice == "history"
                return "messages are remembered" if conversation.keep_history else "every message stands alone"
            case ["verbose" | "quiet" as choice]:
                conversation.verbose = choice == "verbose"
                return _verbosity(conversation.verbose)
            case ["system", *rest]:
                return self._system(" ".join(rest))
            case ["think" | "nothink" as choice]:
                return self._think(choice == "think")
        raise RequestError("say what to set: /set parameter temperature 0.2, or /set nohistory")

    def _show(self, argument: str) -> str | Rows:
        conversation = self._conversation
        if argument in ("", "model", "info"):
            return list(self._backend.facts().items())
        if argument in ("parameters", "params"):
            defaults = replace(self._backend.default_params, max_tokens=None)
            return [(name, _shown(conversation.params, defaults, name)) for name in SETTABLE]
        if argument == "system":
            return conversation.system or "no system prompt is set"
        if argument in ("messages", "history"):
            return "\n".join(f"{m['role']}: {m['content']}" for m in conversation.messages) or "nothing has been said"
        raise RequestError(f"there is nothing to show for {argument!r}; show model, parameters, system or messages")

    def _system(self, argument: str) -> str:
        self._conversation.system = argument or None
        return "the system prompt is set" if argument else "there is no system prompt any more"

    def _clear(self, _: str) -> str:
        self._conversation.clear()
        return "the conversation is forgotten"

    def _save(self, argument: str) -> str:
        if not argument:
            raise RequestError("give the chat a name: /save NAME")
        path = self._conversation.save(self._chats_folder, argument, self._backend.name)
        return f"saved as {path}"

    def _load(self, argument: str) -> str:
        if not argument:
            raise RequestError("name a saved chat: /load NAME")
        model = self._conversation.load(self._chats_folder, argument)
        held_with = "" if model == self._backend.name else f" (it was held with {model})"
        return f"{len(self._conversation.messages)} messages loaded{held_with}"

    def _think(self, wanted: bool) -> str:
        self._conversation.thinking = wanted
        return "the model may think first" if wanted else "the model answers at once"

    def _verbose(self) -> str:
        self._conversation.verbose = not self._conversation.verbose
        return _verbosity(self._conversation.verbose)


def _verbosity(verbose: bool) -> str:
    return "tokens and speed are shown after each reply" if verbose else "replies stand alone"


def _shown(params: SamplingParams, defaults: SamplingParams, name: str) -> str:
    """The value of a parameter as it would be typed."""
    value = getattr(params, name)
    text = ", ".join(map(repr, value)) if isinstance(value, tuple) else str(value)
    return f"{'unset' if value in (None, ()) else text}{'' if value == getattr(defaults, name) else '  (set here)'}"


def _help() -> Rows:
    extra = [('"""', "starts and ends a message of several lines"), ("Ctrl-C", "stops the reply"), ("Ctrl-D", "leaves")]
    return [(command.usage, command.meaning) for command in COMMANDS] + extra
