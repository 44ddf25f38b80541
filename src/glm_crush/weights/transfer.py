"""Big files over HTTP: resumable, verified, never more than announced.

Below it: the web client and the partial file. Above it: the model store. It knows nothing of models.

An interrupted transfer goes on where it stopped if the server still has the same file (Range with If-Range, or a hash
that is known beforehand), in this run or the next. The target appears only when size and hash are right.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2

from glm_crush.errors import DownloadError
from glm_crush.weights.partial_file import PartialFile
from glm_crush.weights.remote_file import Progress, RemoteFile, TransferProgress
from glm_crush.weights.web_client import InterruptedTransferError, WebClient, check_status, shown

__all__ = ["fetch"]

_RESERVE = 64 << 20  # left free on the disk, so that a download never fills it


def fetch(web: WebClient, remote: RemoteFile, target: Path, progress: Progress | None = None) -> str:
    """Fetch one file to `target` and return its sha256 in hexadecimal.

    Raises:
        DownloadError: the file is not there, is not what was promised, or does not fit the disk. What was received
            stays in `<target>.part` when going on later makes sense.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = PartialFile(remote, target)
    with part:
        resumed = part.size > 0
        _transfer(web, part, progress)
        problem = part.hash_problem()
        if problem and resumed:  # the beginning may have been of another file: once more from the start
            part.restart()
            _transfer(web, part, progress)
            problem = part.hash_problem()
        if problem:
            part.discard()
            raise DownloadError(f"{shown(remote.url)}: {problem}; nothing of it was kept")
        return part.commit()


def _transfer(web: WebClient, part: PartialFile, progress: Progress | None) -> None:
    failures, farthest = 0, part.size
    while True:
        try:
            _attempt(web, part, progress)
            return
        except (httpx2.TransportError, InterruptedTransferError) as error:
            if part.size > farthest:
                failures, farthest = 0, part.size
            failures += 1
            web.wait_or_give_up(part.remote.url, failures, error)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise DownloadError(f"{shown(part.remote.url)}: {error}") from error


def _attempt(web: WebClient, part: PartialFile, progress: Progress | None) -> None:
    url = part.remote.url
    if part.size and not part.resumable:
        part.restart()
    # without identity a server may compress, and then sizes and ranges mean something else
    headers = {"accept-encoding": "identity", **part.remote.headers, **part.range_headers()}
    with web.http.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            part.restart()
            raise InterruptedTransferError("the server has nothing from that position on")
        check_status(response, url)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadError(f"{shown(url)}: the server compresses the file although it was asked not to")
        total = part.begin(response)
        _check_disk(part, total)
        for chunk in response.iter_raw():  # unbuffered: what has arrived is kept when the connection drops
            part.write(chunk, total)
            if progress is not None:
                progress(TransferProgress(part.remote.path, part.size, total))
    if total is not None and part.size < total:
        raise InterruptedTransferError(f"the connection ended after {part.size} of {total} bytes")


def _check_disk(part: PartialFile, total: int | None) -> None:
    needed = (total or part.remote.size or 0) - part.size
    free = shutil.disk_usage(part.path.parent).free
    if needed + _RESERVE > free:
        raise DownloadError(
            f"{shown(part.remote.url)} needs {needed / 1e6:.0f} MB more and {free / 1e6:.0f} MB are free under "
            f"{part.path.parent}; make room (64 MB are kept free)"
        )
