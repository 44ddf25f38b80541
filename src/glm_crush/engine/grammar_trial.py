"""Grammars are tried in a process of their own: what takes too long, or too much memory, ends that process alone.

Above: `GrammarCompiler`. Below: `grammar_trial_process`. llguidance's limits count expressions and not their sizes:
time and memory are quadratic in the optional parts of a terminal, and terminals that name others twice make many of 200
characters. Once begun, compiling can be ended with its process only.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping

from glm_crush.errors import InvalidParameterError, OverloadedError
from glm_crush.types import StructuredOutput

__all__ = ["MAX_TRIAL_BYTES", "GrammarTrial"]

MAX_TRIAL_BYTES = 2**27
_MAX_IDLE = 2  # processes that are kept for the next grammars
_START_SECONDS = 30.0
_WALL_SECONDS_PER_SECOND = 20.0  # on a busy machine; it has a lower priority than the engine


class GrammarTrial:
    """Tries grammars, any number at a time. Safe to use from several threads.

    Args:
        special_tokens: of the model by id, as bytes; grammars may name them.
        vocab_size: of the model.
        max_seconds: processor time that a grammar may take.
    """

    def __init__(self, special_tokens: Mapping[int, bytes], vocab_size: int, *, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        special = {token_id: text.decode("latin-1") for token_id, text in special_tokens.items()}
        about = {"vocab_size": vocab_size, "special": special, "max_seconds": max_seconds, "max_bytes": MAX_TRIAL_BYTES}
        self._about = json.dumps(about).encode() + b"\n"
        self._lock = threading.Lock()  # guards the one below
        self._idle: list[subprocess.Popen[bytes]] = []
        self.close = weakref.finalize(self, _end_all, self._idle)

    def try_out(self, structured: StructuredOutput) -> None:
        """Compile a grammar there; whether it can be used is not said.

        Raises:
            InvalidParameterError: it takes too much time or memory.
            OverloadedError: no process can be had.
        """
        process = self._take()
        grammar = json.dumps([structured.kind, structured.grammar]).encode() + b"\n"
        if not _is_answered(process, grammar, self._max_seconds * _WALL_SECONDS_PER_SECOND):
            process.kill()
            _end_all([process])
            raise self._refusal(structured, process.returncode)
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(process)
                return
        _end_all([process])

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                _end_all([process])
        # -P: what lies in the working folder is not imported in place of the real modules.
        command = [sys.executable, "-P", "-m", "glm_crush.engine.grammar_trial_process"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            why = f"no process can be started to compile a grammar: {error}; try again later"
            raise OverloadedError(why) from error
        if not _is_answered(process, self._about, _START_SECONDS):
            process.kill()
            _end_all([process])
            raise OverloadedError(
                f"the process that compiles grammars ended with status {process.returncode} before it began; "
                "try again later, or see the server's log"
            )
        return process

    def _refusal(self, structured: StructuredOutput, status: int) -> InvalidParameterError:
        size = len(structured.grammar)
        if status in (-signal.SIGPROF, -signal.SIGKILL):  # its own clock's, or ours
            what = (
                f"more than {self._max_seconds:g} s of processor time; give one that is smaller, with fewer optional "
                "parts, or raise crush.grammar_seconds"
            )
        else:
            what = f"more memory than {MAX_TRIAL_BYTES >> 20} MiB; give one that is smaller, with fewer optional parts"
        return InvalidParameterError(
            f"the form cannot be used: its grammar has {size} characters, and compiling it took {what}",
            parameter="structured",
        )


def _is_answered(process: subprocess.Popen[bytes], line: bytes, seconds: float) -> bool:
    """Whether the process has lived through what a line tells it to do."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return False
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    return bool(poll.poll(seconds * 1000)) and process.stdout.readline() != b""


def _end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # which ends it
        process.stdout.close()
        process.wait()
