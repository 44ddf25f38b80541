"""Blobs: whole or not there, under the hash of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from glm_crush.errors import BlobTooLargeError, StorageError
from glm_crush.storage.blobs import BlobStore


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", max_blob_bytes=100)


def files(store: BlobStore) -> list[Path]:
    return [path for path in store.path("0" * 64).parents[1].rglob("*") if path.is_file()]


def test_a_content_is_found_under_its_hash(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"Hel")
        writer.write(b"lo")
        blob = writer.commit()
    assert (blob.digest, blob.num_bytes) == (hashlib.sha256(b"Hello").hexdigest(), 5)
    with blobs.open(blob.digest) as content:
        assert content.read() == b"Hello"


def test_the_same_content_is_stored_once(blobs: BlobStore) -> None:
    assert blobs.put(b"twice") == blobs.put(b"twice")
    assert len(files(blobs)) == 1


def test_what_is_not_committed_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"half")
    assert files(blobs) == []


def test_a_content_above_the_limit_is_refused_and_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"x" * 60)
        with pytest.raises(BlobTooLargeError, match="more than 100 bytes"):
            writer.write(b"x" * 60)
    assert files(blobs) == []


def test_a_removed_blob_is_gone_and_may_be_removed_again(blobs: BlobStore) -> None:
    blob = blobs.put(b"gone")
    blobs.remove(blob.digest)
    blobs.remove(blob.digest)
    assert files(blobs) == []
    with pytest.raises(StorageError, match="cannot be read"):
        blobs.open(blob.digest)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file in its place")
    with pytest.raises(StorageError, match="cannot be written"):
        BlobStore(tmp_path / "blobs", max_blob_bytes=1).put(b"")
