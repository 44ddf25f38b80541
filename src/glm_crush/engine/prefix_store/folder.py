"""The folder that prefix stores of several models share: who may write one, and how much room there is.

    DIR/<identity>/lock      held by the process that writes this store
                   index     see `journal`
                   blocks    keys and values of one block after the other

Files are for their owner alone: keys and values say much of the prompts that they were computed from. Above:
`block_store`. This module knows neither blocks nor records.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from pathlib import Path

from glm_crush.errors import ConfigError

__all__ = ["StoreFolder"]

_log = logging.getLogger(__name__)

_NAMES = ("blocks", "index.partial", "index", "lock")  # the lock goes last
_IDENTITY_CHARACTERS = 32


class StoreFolder:
    """The files of one store, and its claim to write them.

    Args:
        root: the folder that the user named; made if there is none.
        identity: what the blocks depend on beside their tokens.
        max_bytes: of all stores in `root`.

    Attributes:
        path: of this store. is_writer: whether this process may write; another does while it may not.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, root: Path, identity: bytes, *, max_bytes: int) -> None:
        self.path = root / identity.hex()[:_IDENTITY_CHARACTERS]
        self.max_bytes = max_bytes
        self._root = root
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self.path)
            self._lock = _try_lock(self.path / "lock")
        except OSError as error:
            raise ConfigError(
                f"the prefix store {root} cannot be used: {error}; choose a folder that you may write"
            ) from error
        self.is_writer = self._lock is not None

    def has_room(self, num_bytes: int) -> bool:
        """Whether this store may take so many bytes; stores that nobody has open give way, the oldest first."""
        others = [(path, _size(path), _last_use(path)) for path in self._other_stores()]
        total = num_bytes + sum(size for _, size, _ in others)
        for path, size, _ in sorted(others, key=lambda other: other[2]):
            if total <= self.max_bytes:
                break
            if _remove(path):
                _log.info("the prefix store of another model gave way: %s, %.0f MB", path, size / 1e6)
                total -= size
        return total <= self.max_bytes

    def close(self) -> None:
        """Let another process write; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock, self.is_writer = None, False

    def _other_stores(self) -> list[Path]:
        return [
            path
            for path in self._root.iterdir()
            if path != self.path and len(path.name) == _IDENTITY_CHARACTERS and (path / "index").is_file()
        ]


def _check_private(path: Path) -> None:
    """Raises ConfigError when others could put blocks there: their bytes would be taken for ours."""
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the prefix store {path} belongs to user {found.st_uid} with mode {found.st_mode & 0o777:o}; "
            "it must be yours alone: choose another folder, or remove this one"
        )


def _try_lock(path: Path) -> int | None:
    """An open file that holds the lock; None while another process does."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever removed the store meanwhile held the lock of a file that is gone.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(fd)


def _remove(path: Path) -> bool:
    """Remove a store that nobody has open for writing; whether that was so."""
    try:
        lock = _try_lock(path / "lock")
        if lock is None:
            return False
        try:
            for name in _NAMES:
                (path / name).unlink(missing_ok=True)
            path.rmdir()
        finally:
            os.close(lock)
    except OSError as error:
        _log.warning("the prefix store %s cannot be removed: %s", path, error)
        return False
    return True


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum((path / name).stat().st_size for name in ("blocks", "index"))
    return 0


def _last_use(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return (path / "index").stat().st_mtime
    return 0.0
