"""A file that appears whole or not at all.

It is written as `<name>.partial` beside its target, flushed to disk and renamed. The partial file is locked, so two
writers of one target take turns, and what a killed writer left is overwritten by the next. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from glm_crush.errors import PackedFileError

__all__ = ["AtomicFile", "exclusive"]


class AtomicFile:
    """Context manager for writing `path`; leaving it normally commits, an exception leaves nothing behind."""

    def __init__(self, path: Path, nbytes: int) -> None:
        """Prepare to write `nbytes` to `path`; nothing is touched before `__enter__`."""
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._nbytes = nbytes
        self._fd = -1

    def __enter__(self) -> AtomicFile:
        """Make room and open the partial file.

        Raises:
            PackedFileError: the disk has too little room, or the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _open_locked(self._partial)
            os.ftruncate(self._fd, 0)
            free = shutil.disk_usage(self._path.parent).free
            if free < self._nbytes:
                raise PackedFileError(
                    f"{self._path} needs {self._nbytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; make room"
                )
        except OSError as error:
            self._discard()
            raise PackedFileError(f"{self._path} cannot be written: {error}") from error
        except PackedFileError:
            self._discard()
            raise
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Append at the current position. Raises PackedFileError when the disk refuses."""
        view = memoryview(data)
        try:
            while view.nbytes:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise PackedFileError(f"{self._path} cannot be written: {error}") from error

    def seek(self, offset: int) -> None:
        """Move to an absolute position; a gap reads as zeros."""
        os.lseek(self._fd, offset, os.SEEK_SET)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or remove the partial file when an exception is under way."""
        if error is not None:
            self._discard()
            return
        try:
            os.ftruncate(self._fd, self._nbytes)
            os.fsync(self._fd)
            # Written page by page, the cached copy is in small pages. Dropped, it comes back in large ones where the
            # reader asks for them (packed_file.py).
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._partial.replace(self._path)
        except OSError as failure:
            self._discard()
            raise PackedFileError(f"{self._path} cannot be written: {failure}") from failure
        os.close(self._fd)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)

    def _discard(self) -> None:
        if self._fd >= 0:
            self._partial.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock `path`, waiting for whoever has it; the file is gone afterwards.

    Raises:
        PackedFileError: its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _open_locked(path)
    except OSError as error:
        raise PackedFileError(f"{path} cannot be written: {error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _open_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        os.close(fd)  # another holder renamed or removed it while we waited: take a fresh one
