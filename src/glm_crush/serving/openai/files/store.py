"""Files: a row in the database for each, its content as a blob.

Above: the routes of files, and batches, which read and write them. Below: `storage`. A file that has expired is as good
as deleted, at once; `sweep` removes it from the disk.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    or_,
    select,
)

from glm_crush.serving.errors import ApiError
from glm_crush.serving.openai.listing import Page, PageQuery, may_be_id
from glm_crush.serving.openai.paging import read_page
from glm_crush.storage.blobs import BlobStore, BlobWriter
from glm_crush.storage.database import Database
from glm_crush.storage.schema import Schema

__all__ = ["SCHEMA", "FileStore", "StoredFile", "insert_file"]

_METADATA = MetaData()
_FILES = Table(
    "files",
    _METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(200), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("filename", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Index("files_by_tenant", "tenant", "created_at", "id"),
    Index("files_by_digest", "digest"),
)


def _m001_files(connection: Connection) -> None:
    Table(
        "files",
        MetaData(),
        Column("id", String(64), primary_key=True),
        Column("tenant", String(200), nullable=False),
        Column("purpose", String(64), nullable=False),
        Column("filename", Text, nullable=False),
        Column("num_bytes", BigInteger, nullable=False),
        Column("digest", String(64), nullable=False),
        Column("created_at", Float(53), nullable=False),
        Column("expires_at", Float(53)),
        Index("files_by_tenant", "tenant", "created_at", "id"),
        Index("files_by_digest", "digest"),
    ).create(connection)


SCHEMA = Schema("files", _METADATA, (_m001_files,))


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file; times in seconds since 1970."""

    id: str
    tenant: str
    purpose: str
    filename: str
    num_bytes: int
    digest: str
    created_at: float
    expires_at: float | None


def insert_file(connection: Connection, file: StoredFile) -> None:
    """For whoever makes a file in one transaction with rows of its own."""
    connection.execute(insert(_FILES).values(vars(file)))


class FileStore:
    """All files of a server. Every method is for one tenant, who sees no other's files.

    Args:
        database: with the rows. blobs: with the contents. now: the time.
        max_total_bytes: more than this is not uploaded; results of batches are written all the same.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        max_total_bytes: int = 2**62,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._now = now
        self._max_total_bytes = max_total_bytes
        # Between a blob's rename and its row nobody may find that the blob has no row and remove it.
        self.placing = asyncio.Lock()

    async def open(self) -> None:
        """Bring the tables up to date. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def writer(self) -> BlobWriter:
        """Begin a content. Raises StorageError."""
        return await asyncio.to_thread(self._blobs.writer)

    async def add(
        self, writer: BlobWriter, *, tenant: str, purpose: str, filename: str, lifetime_seconds: float | None = None
    ) -> StoredFile:
        """Keep a written content as a file; durable when this returns.

        Raises:
            ApiError: 413, there is no room for it beside all other files.
            StorageError: it could not be stored.
        """
        async with self.placing:
            await self._check_room(writer.num_bytes)
            file = await self.place(
                writer, tenant=tenant, purpose=purpose, filename=filename, lifetime_seconds=lifetime_seconds
            )
            await self._database.write(partial(insert_file, file=file))
        return file

    async def place(
        self, writer: BlobWriter, *, tenant: str, purpose: str, filename: str, lifetime_seconds: float | None = None
    ) -> StoredFile:
        """Only commit the content: the caller holds `placing`, and inserts the file itself. Raises StorageError."""
        blob = await asyncio.to_thread(writer.commit)
        now = self._now()
        return StoredFile(
            id=f"file-{uuid.uuid4().hex}",
            tenant=tenant,
            purpose=purpose,
            filename=filename,
            num_bytes=blob.num_bytes,
            digest=blob.digest,
            created_at=now,
            expires_at=None if lifetime_seconds is None else now + lifetime_seconds,
        )

    async def find(self, tenant: str, file_id: str) -> StoredFile:
        """One file.

        Raises:
            ApiError: 404, this tenant has no such file.
        """
        if not may_be_id(file_id):
            raise _no_such_file(file_id)
        rows = await self._database.read(
            lambda connection: connection.execute(
                select(_FILES).where(_FILES.c.id == file_id, _FILES.c.tenant == tenant, self._is_alive())
            ).all()
        )
        if not rows:
            raise _no_such_file(file_id)
        return _file(rows[0])

    async def list(self, tenant: str, query: PageQuery, *, purpose: str | None = None) -> Page:
        """A page of `StoredFile`.

        Raises:
            InvalidParameterError: `after` is no file of this list.
        """
        where = [_FILES.c.tenant == tenant, self._is_alive()]
        if purpose is not None:
            where.append(_FILES.c.purpose == purpose)
        page = await self._database.read(lambda connection: read_page(connection, _FILES, query, *where))
        return Page([_file(row) for row in page.items], page.has_more)

    async def open_content(self, file: StoredFile) -> BinaryIO:
        """The content, to be read in threads. Raises StorageError."""
        return await asyncio.to_thread(self._blobs.open, file.digest)

    async def delete(self, tenant: str, file_id: str) -> None:
        """Remove a file, and its content unless another file has the same.

        Raises:
            ApiError: 404, this tenant has no such file.
            StorageError: it could not be removed.
        """
        await self.find(tenant, file_id)
        await self._remove(_FILES.c.id == file_id, _FILES.c.tenant == tenant)

    async def sweep(self) -> int:
        """Remove what has expired; how many files that were. Raises StorageError."""
        return await self._remove(_FILES.c.expires_at <= self._now())

    async def _remove(self, *where: Any) -> int:
        def remove(connection: Connection) -> tuple[int, set[str]]:
            digests = set(connection.scalars(select(_FILES.c.digest).where(*where)))
            number = connection.execute(delete(_FILES).where(*where)).rowcount
            used = set(connection.scalars(select(_FILES.c.digest).where(_FILES.c.digest.in_(digests))))
            return number, digests - used

        async with self.placing:
            number, unused = await self._database.write(remove)
            for digest in unused:
                await asyncio.to_thread(self._blobs.remove, digest)
        return number

    async def _check_room(self, num_bytes: int) -> None:
        total = await self._database.read(
            lambda connection: connection.scalar(select(func.coalesce(func.sum(_FILES.c.num_bytes), 0)))
        )
        if int(total or 0) + num_bytes > self._max_total_bytes:
            raise ApiError(
                413,
                f"the file has {num_bytes} bytes and all files have {total}; this server keeps {self._max_total_bytes} "
                "(storage.max_total_bytes): delete some",
                code="storage_full",
            )

    def _is_alive(self) -> Any:
        return or_(_FILES.c.expires_at.is_(None), _FILES.c.expires_at > self._now())


def _file(row: Row[Any]) -> StoredFile:
    return StoredFile(**row._asdict())


def _no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"there is no file {file_id!r:.80}; GET /v1/files lists them", code="not_found")
