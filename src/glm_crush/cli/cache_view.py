"""Shows where a prompt left what was cached: found text green, the first other token red, the rest dim."""

from __future__ import annotations

from rich.text import Text

from glm_crush.chat.cache_explanation import CacheExplanation
from glm_crush.cli.console import standard_error

__all__ = ["print_cache"]


def print_cache(found: CacheExplanation | None) -> None:
    """Two lines on standard error; one where there is no prefix cache."""
    console = standard_error()
    if found is None:
        console.print("there is no prefix cache (crush.prefix_cache is off)", style="yellow", highlight=False)
        return
    share = found.cached_tokens / found.prompt_tokens
    colour = "green" if share > 0.5 else "yellow" if share > 0 else "red"
    console.print(Text(found.explanation, style=colour))
    line = Text("  ")
    if found.position > 0:
        line.append(f"... {_one_line(found.before)}", style="green")
    line.append(_one_line(found.token), style="bold white on red")
    line.append(f"{_one_line(found.after)} ...", style="dim")
    console.print(line)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
