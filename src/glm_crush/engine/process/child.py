"""The parent's hold on one child: started, written to, read from, ended. Used by the supervisor's thread alone."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from glm_crush.engine.process.spawned_child import SpawnedChild
from glm_crush.engine.process.wire import FrameReader, FromChild, FromParent, decode_from_child, encode

__all__ = ["ChildGoneError", "ChildProcess"]

_READ_BYTES = 2**20


class ChildGoneError(Exception):
    """The child has closed its end."""


class ChildProcess:
    """One child process and the parent's end of its socket pair, which never blocks."""

    def __init__(self, spawned: SpawnedChild | None = None) -> None:
        spawned = spawned or SpawnedChild()
        spawned.taken = True
        self.link, self._process = spawned.link, spawned.process
        self._reader = FrameReader()
        self._unsent = bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something to do once the link is writable."""
        return bool(self._unsent)

    def send(self, message: FromParent) -> None:
        """Send as much as fits now and keep the rest."""
        self._unsent += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what was kept. A child that is gone is noticed by `receive`."""
        try:
            while self._unsent:
                del self._unsent[: self.link.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def receive(self) -> list[FromChild]:
        """What has come.

        Raises:
            ChildGoneError: nothing will come any more.
            FrameError: it is not a message.
        """
        try:
            data = self.link.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChildGoneError from error
        if not data:
            raise ChildGoneError
        return [decode_from_child(body) for body in self._reader.feed(data)]

    def num_major_faults(self) -> int:
        """How often it has waited for a page from disk; rises while a large model is read in."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[9])

    def end(self, patience_seconds: float = 0.0) -> str:
        """Wait for its end, or bring it about; returns how it ended, for people."""
        try:
            status = self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self.link.close()
        if status >= 0:
            return f"ended with status {status}"
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
