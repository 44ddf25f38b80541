"""Files by the hash of their content: written beside, flushed, then renamed, so that a blob is whole or not there.

Above: the file store. Knows nothing of who refers to a blob; a blob is removed by whoever removes the last reference.
All methods block: callers run them in threads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from glm_crush.errors import BlobTooLargeError, StorageError

__all__ = ["Blob", "BlobStore", "BlobWriter"]


@dataclass(frozen=True)
class Blob:
    """A stored content: `digest` is its SHA-256 in hex."""

    digest: str
    num_bytes: int


class BlobStore:
    """A folder of blobs.

    Args:
        folder: made when the first blob is written.
        max_blob_bytes: largest content taken.
    """

    def __init__(self, folder: Path, *, max_blob_bytes: int) -> None:
        self._folder = folder
        self.max_blob_bytes = max_blob_bytes

    def writer(self) -> BlobWriter:
        """Begin a blob.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            (self._folder / "partial").mkdir(parents=True, exist_ok=True, mode=0o700)
            return BlobWriter(self, self._folder / "partial", self.max_blob_bytes)
        except OSError as error:
            raise _cannot_write(self._folder, error) from error

    def put(self, content: bytes) -> Blob:
        """Store a content that is at hand.

        Raises:
            BlobTooLargeError, StorageError: see `BlobWriter`.
        """
        with self.writer() as writer:
            writer.write(content)
            return writer.commit()

    def open(self, digest: str) -> BinaryIO:
        """The content.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        try:
            return self.path(digest).open("rb")
        except OSError as error:
            raise StorageError(f"the stored content {digest[:12]} cannot be read: {error}") from error

    def path(self, digest: str) -> Path:
        """Where a blob is; in one of 256 folders."""
        return self._folder / digest[:2] / digest[2:]

    def remove(self, digest: str) -> None:
        """Remove a blob; one that is not there is none that has to go.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"the stored content {digest[:12]} cannot be removed: {error}") from error


class BlobWriter:
    """One blob in the making; leaving the context without `commit` leaves nothing behind.

    Attributes:
        num_bytes: written so far.
    """

    def __init__(self, store: BlobStore, folder: Path, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        handle, name = tempfile.mkstemp(dir=folder)
        self._file = os.fdopen(handle, "wb")
        self._partial = Path(name)

    def __enter__(self) -> BlobWriter:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Discard what was not committed."""
        self.discard()

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            BlobTooLargeError: there is more than the store takes.
            StorageError: the disk refuses, or is nearly full.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._max_bytes:
            raise BlobTooLargeError(
                f"the file has more than {self._max_bytes} bytes; this server takes that many (storage.max_file_bytes)"
            )
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise _cannot_write(self._partial.parent, error) from error

    def commit(self) -> Blob:
        """Make the content durable under its hash.

        Raises:
            StorageError: the disk refuses.
        """
        blob = Blob(self._hash.hexdigest(), self.num_bytes)
        target = self._store.path(blob.digest)
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            target.parent.mkdir(exist_ok=True, mode=0o700)
            self._file.close()
            self._partial.replace(target)
            _flush_folder(target.parent)  # the rename itself must survive a power cut
            _flush_folder(target.parent.parent)
        except OSError as error:
            raise _cannot_write(target, error) from error
        return blob

    def discard(self) -> None:
        """Remove what was written; after `commit` there is nothing to remove."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> StorageError:
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    return StorageError(f"{path} cannot be written: {error} ({free / 1e6:.0f} MB are free)")
