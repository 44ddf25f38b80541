"""Draws the terminal pictures of the pages: real sessions in tmux, written as SVG.

scripts/make_pictures.py [NAME ...]     default: all; needs tmux, the default model, and nothing on port 4600
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
COLUMNS, ROWS = 100, 40
PATIENCE_SECONDS = 120.0
QUIET_SECONDS = 1.0
PROMPT, CHAT_PROMPT = "$", ">>> Send a message (/? for help)"
# name: what is typed, line by line; a line that begins with "> " answers a program, the others are commands.
SESSIONS: dict[str, list[str]] = {
    "chat": [
        "glm chat --verbose --temperature 0",
        "> Explain in one sentence why the sky is blue.",
        "> What is a B-tree, in two sentences?",
        "> /bye",
    ],
    "inspect": ["glm inspect smollm2:135m"],
    "selfcheck": ["glm selfcheck smollm2:135m"],
}


def tmux(*arguments: str) -> str:
    """Run tmux on a server of our own."""
    return subprocess.run(
        ["tmux", "-L", "glm-pictures", "-f", "/dev/null", *arguments], check=True, capture_output=True, text=True
    ).stdout


def screen() -> str:
    """What stands on the terminal, with its colours."""
    return tmux("capture-pane", "-p", "-e", "-J", "-t", "picture").rstrip()


def wait_until(done: Callable[[str], bool]) -> None:
    """Return when a screen that is done has not changed for a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen, since = screen(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = screen()
        if now != seen:
            seen, since = now, time.monotonic()
        elif done(now) and time.monotonic() - since > QUIET_SECONDS:
            return
    raise SystemExit(f"the session did not come to rest:\n{seen}")


def asks(prompt: str) -> Callable[[str], bool]:
    """Whether the last line is this prompt and nothing else."""
    return lambda text: Text.from_ansi(text).plain.rstrip().splitlines()[-1:] == [prompt]


def play(lines: list[str]) -> str:
    """Type a session into a new terminal and give its last screen."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shell = f"env PATH={shlex.quote(path)} PS1='{PROMPT} ' COLORTERM=truecolor bash --norc --noprofile"
    tmux("new-session", "-d", "-s", "picture", "-x", str(COLUMNS), "-y", str(ROWS), shell)
    try:
        wait_until(asks(PROMPT))
        for number, line in enumerate(lines):
            tmux("send-keys", "-t", "picture", "-l", line.removeprefix("> "))
            tmux("send-keys", "-t", "picture", "Enter")
            answered = any(after.startswith("> ") for after in lines[number + 1 :])
            wait_until(asks(CHAT_PROMPT if answered else PROMPT))
        return screen()
    finally:
        tmux("kill-server")


def draw(name: str, text: str) -> None:
    """Write a screen as docs/pictures/NAME.svg, without the empty prompt at its end."""
    lines = text.splitlines()
    while lines and lines[-1].strip() in ("", PROMPT):
        lines.pop()
    console = Console(width=COLUMNS, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi("\n".join(lines)))
    PICTURES.mkdir(exist_ok=True)
    console.save_svg(str(PICTURES / f"{name}.svg"), title=SESSIONS[name][0], theme=MONOKAI)


def main() -> None:
    """Draw the chosen pictures."""
    for name in sys.argv[1:] or SESSIONS:
        draw(name, play(SESSIONS[name]))
        print(f"docs/pictures/{name}.svg")


if __name__ == "__main__":
    main()
