"""/v1/files: upload, list, look at, read and delete.

Above: `stored.py`. Below: the store, which is opened with the first request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.json_http import json_response
from glm_crush.serving.openai.files.upload import read_upload
from glm_crush.serving.openai.listing import page_object, page_query
from glm_crush.serving.openai.replies import PAGE_QUERY, Deleted, File, FilePage
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.tenant import tenant_of

if TYPE_CHECKING:
    from glm_crush.serving.openai.files.store import FileStore, StoredFile

__all__ = ["file_routes"]

OpenFiles = Callable[[], Awaitable["FileStore"]]

_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_LIFETIMES = (3_600, 2_592_000)  # seconds, as OpenAI has them
_MOST_FILES = 10_000  # in one page
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_UPLOAD: dict[str, dict[str, Any]] = {
    "file": {"type": "string", "format": "binary"},
    "purpose": {"enum": list(_PURPOSES)},
}
_LIST_QUERY: dict[str, dict[str, Any]] = {
    **PAGE_QUERY,
    "limit": {**PAGE_QUERY["limit"], "maximum": _MOST_FILES},
    "purpose": {"enum": [*_PURPOSES, "batch_output"]},
}
_PIECE = 256 * 1024


def file_routes(open_files: OpenFiles) -> list[ApiRoute]:
    """The routes of files."""
    files = _Files(open_files)
    return [
        (Endpoint("POST", "/v1/files", "Upload a file.", reply=File, form=_UPLOAD), files.create),
        (Endpoint("GET", "/v1/files", "The files there are.", reply=FilePage, query=_LIST_QUERY), files.list),
        (
            Endpoint(
                "GET",
                "/v1/files/{file_id}/content",
                "The content of a file.",
                reply=bytes,
                media_type="application/octet-stream",
            ),
            files.content,
        ),
        (Endpoint("GET", "/v1/files/{file_id}", "One file.", reply=File), files.retrieve),
        (Endpoint("DELETE", "/v1/files/{file_id}", "Delete a file.", reply=Deleted), files.delete),
    ]


class _Files:
    def __init__(self, open_files: OpenFiles) -> None:
        self._open = open_files

    async def create(self, http: Request) -> Response:
        store = await self._open()
        with await store.writer() as writer:
            upload = await read_upload(http.headers.get("content-type", ""), http.stream(), writer)
            if upload.filename is None:
                raise InvalidParameterError("file is required", parameter="file")
            purpose, lifetime = _purpose(upload.fields), _lifetime(upload.fields)
            file = await store.add(
                writer,
                tenant=tenant_of(http),
                purpose=purpose,
                filename=upload.filename,
                lifetime_seconds=lifetime,
            )
        return json_response(file_object(file))

    async def list(self, http: Request) -> Response:
        query = page_query(http, default_limit=_MOST_FILES, most=_MOST_FILES, others={"purpose"})
        purpose = http.query_params.get("purpose")
        if purpose is not None and purpose not in (*_PURPOSES, "batch_output"):
            raise _wrong_purpose(purpose, (*_PURPOSES, "batch_output"))
        page = await (await self._open()).list(tenant_of(http), query, purpose=purpose)
        return json_response(page_object([file_object(file) for file in page.items], has_more=page.has_more))

    async def retrieve(self, http: Request) -> Response:
        store = await self._open()
        return json_response(file_object(await store.find(tenant_of(http), http.path_params["file_id"])))

    async def content(self, http: Request) -> Response:
        store = await self._open()
        file = await store.find(tenant_of(http), http.path_params["file_id"])
        headers = {"content-length": str(file.num_bytes), "x-content-type-options": "nosniff"}
        pieces = _pieces(await store.open_content(file))
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    async def delete(self, http: Request) -> Response:
        file_id = http.path_params["file_id"]
        await (await self._open()).delete(tenant_of(http), file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})


def file_object(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


async def _pieces(content: BinaryIO) -> AsyncIterator[bytes]:
    with content:
        while piece := await anyio.to_thread.run_sync(content.read, _PIECE):
            yield piece


def _purpose(fields: Mapping[str, str]) -> str:
    for name in fields:
        if name not in _FIELDS:
            raise InvalidParameterError(f"{name:.60} is not a field of this form; remove it", parameter=name)
    purpose = fields.get("purpose")
    if purpose not in _PURPOSES:
        raise _wrong_purpose(purpose, _PURPOSES)
    return purpose


def _wrong_purpose(purpose: str | None, purposes: Sequence[str]) -> InvalidParameterError:
    given = "required" if purpose is None else f"{purpose!r:.60}"
    return InvalidParameterError(f"purpose is {given}; give one of {', '.join(purposes)}", parameter="purpose")


def _lifetime(fields: Mapping[str, str]) -> float | None:
    """Seconds, if the file is to expire."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidParameterError(
            f"expires_after[anchor] is {anchor!r:.60}; give created_at", parameter="expires_after[anchor]"
        )
    low, high = _LIFETIMES
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or not low <= int(seconds[:9]) <= high:
        raise InvalidParameterError(
            f"expires_after[seconds] is {seconds!r:.60}; give a whole number in [{low}, {high}]",
            parameter="expires_after[seconds]",
        )
    return float(seconds)
