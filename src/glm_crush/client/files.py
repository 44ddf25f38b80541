"""Files on the server.

Above: the two clients, batches. Below: nothing but the call.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from glm_crush.client.call import Call, Flow, PageCall, StreamCall, Upload, given, place, read_as
from glm_crush.client.result import Deleted, Result

__all__ = ["File", "content", "delete", "get", "lines", "list_files", "upload"]


class File(Result, frozen=True):
    """One file; times in seconds since 1970."""

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None = None
    status: str | None = None


def upload(
    content: str | Path | bytes | BinaryIO,
    *,
    purpose: str = "user_data",
    filename: str | None = None,
    expires_after_seconds: int | None = None,
) -> Flow[File]:
    """Send a file.

        client.files.upload("questions.jsonl", purpose="batch").id

    Args:
        content: the path of a file, its bytes, or an open file.
        purpose: what it is for; "batch" for the input of a batch.
        filename: what to call it; left out: as the path says.
        expires_after_seconds: when it is deleted; left out: never.
    """
    fields = {"purpose": purpose}
    if expires_after_seconds is not None:
        fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_after_seconds)}
    with ExitStack() as opened:
        if isinstance(content, (str, Path)):
            content = opened.enter_context(Path(content).open("rb"))
        name = filename or Path(str(getattr(content, "name", "upload"))).name
        form = Upload(name, content, fields)
        file: File = yield Call(method="POST", path="/v1/files", upload=form, parse=read_as(File), repeatable=False)
    return file


def list_files(*, purpose: str | None = None, page_size: int | None = None, order: str | None = None) -> PageCall[File]:
    """All files, newest first unless `order` is "asc"; pages are fetched as they are needed."""
    return PageCall("/v1/files", File, given(purpose=purpose, limit=page_size, order=order))


def get(file_id: str) -> Call[File]:
    """One file."""
    return Call(method="GET", path=place("v1", "files", file_id), parse=read_as(File))


def content(file_id: str) -> Call[bytes]:
    """What is in a file."""
    path = place("v1", "files", file_id, "content")
    return Call(method="GET", path=path, parse=lambda answer: answer.content)


def lines(file_id: str) -> StreamCall[str, None]:
    """What is in a file of text, line by line, without holding all of it; see `Stream`."""
    return StreamCall(method="GET", path=place("v1", "files", file_id, "content"), pieces="lines", reader=_Lines)


def delete(file_id: str) -> Call[Deleted]:
    """Delete a file."""
    return Call(method="DELETE", path=place("v1", "files", file_id), parse=read_as(Deleted))


class _Lines:
    """Lines as they are; the end of the file is theirs."""

    is_complete = True

    def read(self, text: str) -> list[str]:
        return [text]

    def whole(self) -> None:
        """Nothing is kept."""
