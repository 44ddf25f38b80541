"""Files: uploaded piece by piece, listed, read and deleted, each tenant for itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import StorageSettings
from glm_crush.serving.errors import ApiError
from glm_crush.serving.openai.files.store import FileStore
from glm_crush.serving.openai.listing import PageQuery
from glm_crush.storage.blobs import BlobStore
from glm_crush.storage.lazy import LazyDatabase
from tests.storage.databases import OpenDatabase

pytestmark = pytest.mark.requirement("S1")


@pytest.fixture
def server(start_server: Callable[..., Any], glm_home: Path) -> Any:
    return start_server(database=LazyDatabase(StorageSettings(max_file_bytes=100_000), glm_home))


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def upload(client: openai.OpenAI, content: bytes = b"{}\n", name: str = "in.jsonl", **options: Any) -> Any:
    return client.files.create(file=(name, io.BytesIO(content)), purpose="batch", **options)


def test_a_file_is_uploaded_read_and_deleted(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 300
    file = upload(client, content, name="données.bin")
    assert (file.bytes, file.filename, file.purpose, file.status) == (76_800, "données.bin", "batch", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_files_are_listed_newest_first_in_pages_by_purpose(client: openai.OpenAI) -> None:
    ids = [upload(client).id for _ in range(5)]
    client.files.create(file=("a.txt", b"a"), purpose="user_data")
    assert [file.id for file in client.files.list(purpose="batch", limit=2)] == ids[::-1]
    assert [file.id for file in client.files.list(purpose="batch", order="asc", limit=3)] == ids
    page = client.files.list(limit=2)
    assert (page.has_more, len(page.data)) == (True, 2)


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(client: openai.OpenAI, glm_home: Path) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        upload(client, b"x" * 100_001)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert [path for path in (glm_home / "data" / "files").rglob("*") if path.is_file()] == []


def test_files_that_would_be_too_much_together_are_refused(start_server: Callable[..., Any], glm_home: Path) -> None:
    server = start_server(database=LazyDatabase(StorageSettings(max_total_bytes=100), glm_home))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    file = upload(client, b"x" * 60)
    with pytest.raises(openai.APIStatusError) as caught:
        upload(client, b"y" * 60)
    assert (caught.value.status_code, caught.value.code) == (413, "storage_full")
    client.files.delete(file.id)
    assert upload(client, b"y" * 60).bytes == 60


def test_a_file_may_be_larger_than_other_bodies(start_server: Callable[..., Any], glm_home: Path) -> None:
    server = start_server(database=LazyDatabase(StorageSettings(), glm_home), max_body_bytes=1000)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert upload(client, b"x" * 5000).bytes == 5000
    assert httpx2.post(f"{server.url}/v1/completions", content=b"x" * 5000).status_code == 413


@pytest.mark.parametrize(
    ("form", "parameter"),
    [
        ({"purpose": "batch"}, "file"),
        ({"file": ("a", b"a")}, "purpose"),
        ({"file": ("a", b"a"), "purpose": "batch_output"}, "purpose"),
        ({"file": ("a", b"a"), "purpose": "batch", "colour": "red"}, "colour"),
        ({"file": ("a", b"a"), "purpose": "batch", "expires_after[seconds]": "4000"}, "expires_after[anchor]"),
        (
            {
                "file": ("a", b"a"),
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "60",
            },
            "expires_after[seconds]",
        ),
        ({"purpose": "x" * 10_001, "file": ("a", b"a")}, "purpose"),
    ],
)
def test_what_is_wrong_with_a_form_is_named(server: Any, form: dict[str, Any], parameter: str) -> None:
    parts = [(name, value if isinstance(value, tuple) else (None, value.encode())) for name, value in form.items()]
    response = httpx2.post(f"{server.url}/v1/files", files=parts)
    assert (response.status_code, response.json()["error"]["param"]) == (400, parameter)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch"),
        ("multipart/form-data; boundary=x", b"nonsense"),
    ],
)
def test_a_body_that_is_no_whole_form_is_refused(server: Any, content_type: str, body: bytes) -> None:
    response = httpx2.post(f"{server.url}/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=no", "after"), ("page=2", "page")],
)
def test_a_wrong_list_parameter_is_named(server: Any, query: str, parameter: str) -> None:
    response = httpx2.get(f"{server.url}/v1/files?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, parameter)


def test_files_are_there_after_a_restart(start_server: Callable[..., Any], glm_home: Path) -> None:
    first = start_server(database=LazyDatabase(StorageSettings(), glm_home))
    client = openai.OpenAI(base_url=f"{first.url}/v1", api_key="none", max_retries=0)
    file = upload(client, b"kept")
    start_server(database=LazyDatabase(StorageSettings(), glm_home))
    assert client.files.content(file.id).read() == b"kept"


# --- the store, on both databases ---


class Stores:
    """A store with a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.time = 1000.0
        self.folder = folder
        self.blobs = BlobStore(folder, max_blob_bytes=1000)

    async def add(self, store: FileStore, content: bytes, tenant: str = "a", lifetime: float | None = None) -> Any:
        self.time += 1
        with await store.writer() as writer:
            writer.write(content)
            return await store.add(writer, tenant=tenant, purpose="batch", filename="f", lifetime_seconds=lifetime)

    def contents(self) -> int:
        return sum(path.is_file() for path in self.folder.rglob("*"))


def run(open_database: OpenDatabase, tmp_path: Path, scenario: Callable[[Stores, FileStore], Any]) -> Any:
    async def main() -> Any:
        stores = Stores(tmp_path / "blobs")
        async with open_database() as database:
            store = FileStore(database, stores.blobs, now=lambda: stores.time)
            await store.open()
            return await scenario(stores, store)

    return asyncio.run(main())


def test_a_tenant_neither_sees_nor_deletes_the_files_of_another(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(stores: Stores, store: FileStore) -> None:
        file = await stores.add(store, b"mine", tenant="a")
        for attempt in (store.find("b", file.id), store.delete("b", file.id)):
            with pytest.raises(ApiError):
                await attempt
        assert (await store.list("b", PageQuery(10, None, "desc"))).items == []
        assert await store.find("a", file.id) == file

    run(open_database, tmp_path, scenario)


def test_a_content_goes_with_the_last_file_that_has_it(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(stores: Stores, store: FileStore) -> None:
        one, two = await stores.add(store, b"same"), await stores.add(store, b"same", tenant="b")
        await store.delete("a", one.id)
        with await store.open_content(two) as content:
            assert content.read() == b"same"
        await store.delete("b", two.id)
        assert stores.contents() == 0

    run(open_database, tmp_path, scenario)


def test_an_expired_file_is_gone_at_once_and_swept_later(open_database: OpenDatabase, tmp_path: Path) -> None:
    async def scenario(stores: Stores, store: FileStore) -> None:
        file = await stores.add(store, b"short", lifetime=100)
        kept = await stores.add(store, b"long")
        stores.time += 100
        with pytest.raises(ApiError):
            await store.find("a", file.id)
        assert [item.id for item in (await store.list("a", PageQuery(10, None, "asc"))).items] == [kept.id]
        assert stores.contents() == 2
        assert await store.sweep() == 1
        assert stores.contents() == 1

    run(open_database, tmp_path, scenario)
