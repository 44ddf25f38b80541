"""A file that is still arriving: on disk as `<target>.part`, with notes in `<target>.part.json`.

Below it: the web client's errors. Above it: `transfer`. It keeps the hash of what has arrived, and the notes tell the
next run whether what lies there is the beginning of the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx2

from glm_crush.errors import DownloadError
from glm_crush.weights.remote_file import RemoteFile
from glm_crush.weights.web_client import InterruptedTransferError, shown

__all__ = ["PartialFile"]

_CHUNK = 1 << 20


class PartialFile:
    """The unfinished file on disk, its hashes so far, and what the server said about it."""

    def __init__(self, remote: RemoteFile, target: Path) -> None:
        self.remote = remote
        self.path = target.with_name(target.name + ".part")
        self._target = target
        self._notes = target.with_name(target.name + ".part.json")
        self._known: dict[str, Any] = {}

    def __enter__(self) -> PartialFile:
        self._known = self._read_notes()
        if not self._known:
            self.path.unlink(missing_ok=True)
        self._file = self.path.open("ab+")
        self._rehash()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def resumable(self) -> bool:
        """Whether what is here can be told from the beginning of another file."""
        return bool(self.remote.sha256 or self.remote.git_blob_sha1 or self._known.get("etag"))

    def range_headers(self) -> dict[str, str]:
        if not self.size:
            return {}
        headers = {"range": f"bytes={self.size}-"}
        if self._known.get("etag"):
            headers["if-range"] = self._known["etag"]
        return headers

    def begin(self, response: httpx2.Response) -> int | None:
        """Position the file for this response; return the total size, None if the server does not say."""
        length = response.headers.get("content-length", "")
        announced = int(length) if length.isdigit() else None
        if response.status_code == 206:
            start, total = _content_range(response.headers.get("content-range", ""))
            if start != self.size:
                self.restart()
                raise InterruptedTransferError(f"the server sends from byte {start}, not from where we stopped")
        else:
            self.restart()
            total = announced
        if total is not None and self.remote.size is not None and total != self.remote.size:
            raise DownloadError(f"{shown(self.remote.url)} announces {total} bytes; the index says {self.remote.size}")
        etag = response.headers.get("etag", "")
        self._known = {
            "url": self.remote.url,
            "sha256": self.remote.sha256,
            "etag": "" if etag.startswith("W/") else etag,
        }
        self._notes.write_text(json.dumps(self._known))
        return self.remote.size if total is None else total

    def write(self, chunk: bytes, total: int | None) -> None:
        if total is not None and self.size + len(chunk) > total:
            raise DownloadError(f"{shown(self.remote.url)} sends more than the {total} bytes it announced")
        try:
            self._file.write(chunk)
        except OSError as error:
            raise DownloadError(f"{self.path} cannot be written: {error}") from error
        self.size += len(chunk)
        self._hash.update(chunk)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._rehash()

    def hash_problem(self) -> str | None:
        """What is wrong with the complete file, or None."""
        found, expected = self._hash.hexdigest(), self.remote.sha256
        if expected is not None and found != expected.lower():
            return f"sha256 is {found}; expected {expected}"
        if expected is None and self.remote.git_blob_sha1 is not None:
            blob = self._git_blob_sha1()
            if blob != self.remote.git_blob_sha1:
                return f"git blob hash is {blob}; expected {self.remote.git_blob_sha1}"
        return None

    def commit(self) -> str:
        """Make it the target; return its sha256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.path.replace(self._target)
        self._notes.unlink(missing_ok=True)
        return self._hash.hexdigest()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def _rehash(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self._hash.update(chunk)
            self.size += len(chunk)

    def _git_blob_sha1(self) -> str:
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _read_notes(self) -> dict[str, Any]:
        """What is noted about the part, or nothing if it is about another file."""
        try:
            notes = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return {}
        same_hash = self.remote.sha256 is not None and notes.get("sha256") == self.remote.sha256
        return notes if isinstance(notes, dict) and (same_hash or notes.get("url") == self.remote.url) else {}


def _content_range(value: str) -> tuple[int, int | None]:
    """Start and total of `bytes 5-9/10`."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        raise DownloadError(f"the server answered a range with Content-Range {value!r}")
    return int(start), int(total) if total.isdigit() else None
