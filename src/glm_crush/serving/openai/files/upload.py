"""A multipart upload, read as it comes: the file goes to disk piece by piece, never whole into memory.

Above: the route of uploads. Below: python-multipart and a blob writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from glm_crush.errors import InvalidParameterError, RequestError
from glm_crush.storage.blobs import BlobWriter

__all__ = ["Upload", "read_upload"]

_LONGEST_FIELD = 10_000
_LONGEST_NAME = 255
_MOST_PARTS = 20


@dataclass
class Upload:
    """What came: the text fields, and the name of the file; None = there was no file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_upload(content_type: str, chunks: AsyncIterator[bytes], writer: BlobWriter) -> Upload:
    """Read a whole upload; the content of its part `file` goes to `writer`.

    Raises:
        RequestError: the body is not multipart, or malformed.
        InvalidParameterError: a field is repeated or too long, or `file` is no file.
        BlobTooLargeError, StorageError: see `BlobWriter.write`.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestError("the body must be multipart/form-data with a boundary: fields and one file called 'file'")
    reader = _Reader(boundary, writer)
    async for chunk in chunks:
        if chunk:
            await asyncio.to_thread(reader.feed, chunk)
    return reader.finish()


class _Reader:
    """The parser's callbacks; runs in one thread at a time."""

    def __init__(self, boundary: bytes, writer: BlobWriter) -> None:
        self._upload = Upload()
        self._writer = writer
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._text = bytearray()
        self._num_parts = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise RequestError(f"the body is not well-formed multipart: {error}") from error

    def finish(self) -> Upload:
        if not self._ended:
            raise RequestError("the multipart body ends before its last boundary; send it whole")
        return self._upload

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MOST_PARTS:
            raise RequestError(f"the multipart body has more than {_MOST_PARTS} parts")
        self._disposition, self._name, self._is_file = b"", "", False
        self._text.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", errors="replace")
        filename = options.get(b"filename")
        self._is_file = self._name == "file"
        if self._is_file and filename is None:
            raise InvalidParameterError("file is text; send it as a file, with a filename", parameter="file")
        if self._name in self._upload.fields or (self._is_file and self._upload.filename is not None):
            raise InvalidParameterError(f"{self._name:.60} is given twice", parameter=self._name)
        if filename is not None and self._is_file:
            name = filename.decode("utf-8", errors="replace")[-_LONGEST_NAME:]
            self._upload.filename = "".join(c if c.isprintable() else "_" for c in name) or "upload"

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._writer.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _LONGEST_FIELD:
            raise InvalidParameterError(
                f"{self._name:.60} has more than {_LONGEST_FIELD} bytes; only 'file' may be long", parameter=self._name
            )

    def _end_part(self) -> None:
        if not self._is_file:
            self._upload.fields[self._name] = self._text.decode("utf-8", errors="replace")

    def _end(self) -> None:
        self._ended = True
