"""Shows a reply as it is made: text at once, speed afterwards. Ctrl-C ends the reply, not the program."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from typing import TextIO

from glm_crush.cli.backend import ReplyStats
from glm_crush.cli.console import standard_error
from glm_crush.cli.word_wrap import WordWrap

__all__ = ["collect_reply", "print_reply", "print_stats"]


def print_reply(pieces: Generator[str, None, ReplyStats], out: TextIO) -> tuple[str, ReplyStats | None]:
    """Write pieces as they come; returns the text, and the statistics unless Ctrl-C stopped the reply.

    On a terminal lines break between words; elsewhere the text is what the model wrote.
    """
    written: list[str] = []
    write = WordWrap(out, shutil.get_terminal_size().columns).write if out.isatty() else out.write
    try:
        while True:
            piece = next(pieces)
            written.append(piece)
            write(piece)
            out.flush()
    except StopIteration as end:
        stats: ReplyStats | None = end.value
    except KeyboardInterrupt:
        stats = None
    finally:
        pieces.close()
    text = "".join(written)
    if not text.endswith("\n"):
        out.write("\n")
        out.flush()
    return text, stats


def collect_reply(pieces: Generator[str, None, ReplyStats]) -> tuple[str, ReplyStats]:
    """The whole reply and its statistics."""
    written: list[str] = []
    while True:
        try:
            written.append(next(pieces))
        except StopIteration as end:
            return "".join(written), end.value


def print_stats(stats: ReplyStats, *, load_seconds: float | None = None) -> None:
    """Counts and speeds in the words ollama uses, on standard error."""
    rows = [("total duration", _seconds(stats.elapsed_seconds + (load_seconds or 0.0)))]
    if load_seconds is not None:
        rows.append(("load duration", _seconds(load_seconds)))
    cached = f" ({stats.cached_tokens} cached)" if stats.cached_tokens else ""
    rows += [
        ("prompt eval count", f"{stats.prompt_tokens} tokens{cached}"),
        ("prompt eval duration", _seconds(stats.time_to_first_token_seconds)),
        ("prompt eval rate", _rate(stats.prefill_tokens_per_second)),
        ("eval count", f"{stats.completion_tokens} tokens"),
        ("eval duration", _seconds(stats.elapsed_seconds - stats.time_to_first_token_seconds)),
        ("eval rate", _rate(stats.decode_tokens_per_second)),
    ]
    if stats.context_length is not None:
        used = stats.prompt_tokens + stats.completion_tokens
        rows.append(("context used", f"{used:,} of {stats.context_length:,} tokens"))
    if stats.drafted_tokens:
        rows.append(("guessed ahead", f"{stats.drafted_tokens} tokens, {stats.accepted_tokens} of them right"))
    console = standard_error()
    console.print()
    for name, value in rows:
        console.print(f"[dim]{name + ':':<22}{value}[/]")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _rate(tokens_per_second: float | None) -> str:
    return "-" if tokens_per_second is None else f"{tokens_per_second:.1f} tokens/s"
