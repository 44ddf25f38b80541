"""One pull of a name at a time, across processes.

Above it: the store. The lock is the kernel's (flock), so it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glm_crush.errors import DownloadError
from glm_crush.weights.stored_model import folder_name

__all__ = ["pull_lock"]


@contextmanager
def pull_lock(home: Path, name: str) -> Iterator[None]:
    """Hold the lock of a name. Raises DownloadError at once when another holds it, or `home` cannot be written."""
    path = home / "locks" / f"{folder_name(name)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (home / "models").mkdir(exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise DownloadError(
            f"the model store {home} cannot be written: {error}; set GLM_HOME to a folder that you may write"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"another process is changing {name} right now; wait for it to finish") from error
        yield
