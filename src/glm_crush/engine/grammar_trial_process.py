"""`python -m glm_crush.engine.grammar_trial_process`: compiles grammars until one takes too much.

Started by `GrammarTrial`, which tells it what that is. Its tokenizer knows single bytes and the model's special tokens:
how long a grammar takes hardly depends on the others. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from glm_crush.engine.grammar_library import compile_grammar, stack_bytes
from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput

_NICENESS = 5
_M_ARENA_MAX = -8


class _Bytes:
    """A vocabulary of single bytes and special tokens, as the library takes it."""

    bos_token_id = None

    def __init__(self, vocab_size: int, special: dict[int, bytes]) -> None:
        self.special_token_ids = sorted(special)
        self.eos_token_id = self.special_token_ids[0] if special else vocab_size - 1
        self.tokens = [special.get(token_id, b"") for token_id in range(vocab_size)]
        plain = (token_id for token_id in range(vocab_size) if token_id not in special)
        for byte, token_id in zip(range(256), plain, strict=False):  # a tiny vocabulary has not place for all
            self.tokens[token_id] = bytes([byte])

    def __call__(self, text: bytes) -> list[int]:
        return [self.tokens.index(bytes([byte])) for byte in text]


def _use_one_heap() -> None:
    """A heap for each thread would reserve 128 MiB of addresses each, more than the limit leaves."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _bound_memory(max_bytes: int, characters: int) -> None:
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + stack_bytes(characters) + max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _answer() -> None:
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Read what the model is, then grammars, one a line; a line is written for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; its parent's to answer
    os.nice(_NICENESS)
    _use_one_heap()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    about: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    special = {int(token_id): text.encode("latin-1") for token_id, text in about["special"].items()}
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(about["vocab_size"], special)))
    _answer()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # the library's last words are nobody's to read
    for line in sys.stdin.buffer:
        kind, grammar = json.loads(line)
        _bound_memory(about["max_bytes"], len(grammar))
        signal.setitimer(signal.ITIMER_PROF, about["max_seconds"])  # of this process's time; its signal ends it
        with contextlib.suppress(InvalidParameterError):  # told by who compiles it next
            compile_grammar(tokenizer, StructuredOutput(kind=kind, grammar=grammar))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer()


if __name__ == "__main__":
    main()
