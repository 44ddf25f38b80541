"""The models on a machine: what is there, what it is called, what a broken pull leaves."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from glm_crush.errors import DownloadError, InvalidParameterError, ModelNotFoundError
from glm_crush.weights.store import ModelStore
from tests.weights.web_server import serving, sha256

pytestmark = pytest.mark.requirement("M1")
GGUF = b"GGUF" + bytes(5000)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


def pulled(store: ModelStore, name: str = "tiny", body: bytes = GGUF) -> None:
    with serving() as web:
        web.file("/tiny.gguf", body)
        store.pull(web.url + "/tiny.gguf", name)


def test_an_empty_store_lists_nothing_and_creates_nothing(store: ModelStore, tmp_path: Path) -> None:
    assert store.list() == []
    assert not (tmp_path / "home").exists()


def test_a_pulled_model_is_listed_and_resolves_to_its_file(store: ModelStore) -> None:
    pulled(store)
    (model,) = store.list()
    assert (model.name, model.format, model.bytes, model.linked) == ("tiny", "gguf", 5004, False)
    assert [(file.path, file.sha256) for file in model.files] == [("tiny.gguf", sha256(GGUF))]
    assert store.resolve("tiny").read_bytes() == GGUF
    assert store.show("tiny") == model


def test_a_local_folder_is_registered_without_copying(store: ModelStore, folder: Path) -> None:
    model = store.pull(str(folder))
    assert (model.name, model.format, model.bytes, model.linked) == ("My-Model", "safetensors", 102, True)
    assert store.resolve("My-Model") == folder
    store.remove("My-Model")
    assert folder.exists()
    assert store.list() == []


def test_a_path_resolves_to_itself(store: ModelStore, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(GGUF)
    assert store.resolve(str(folder)) == folder
    assert store.resolve(str(file)) == file


def test_a_registered_path_that_is_gone_says_so(store: ModelStore, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(GGUF)
    store.pull(str(file))
    file.unlink()
    with pytest.raises(ModelNotFoundError, match=r"x\.gguf, registered as x, is gone"):
        store.resolve("x")


def test_an_unknown_name_is_answered_with_the_nearest(store: ModelStore, tmp_path: Path) -> None:
    pulled(store, "llama3:8b")
    with pytest.raises(ModelNotFoundError, match="did you mean llama3:8b"):
        store.resolve("lama3:8b")
    with pytest.raises(ModelNotFoundError, match="glm pull smollm2:135m"):
        store.resolve("smollm2:135m")
    with pytest.raises(ModelNotFoundError, match=r"stored and no such path exists\. `glm list`"):
        ModelStore(tmp_path / "empty").resolve("qqqqqqqq")
    with pytest.raises(ModelNotFoundError, match=r"^\./missing\.gguf does not exist; check the path"):
        store.resolve("./missing.gguf")
    with pytest.raises(ModelNotFoundError, match=r"not a GGUF file, a packed \.glm file or a folder with config\.json"):
        store.resolve(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2:135m"):
        store.pull("smolm2:135")


def test_a_name_that_is_like_none_is_answered_with_what_can_be_pulled(store: ModelStore) -> None:
    pulled(store, "llama3:8b")
    with pytest.raises(ModelNotFoundError, match=r"exists\. `glm list` .* takes smollm2:135m, minilm, pypi:"):
        store.resolve("nope")


def test_what_a_model_was_pulled_from_names_it_without_asking_anybody(store: ModelStore) -> None:
    with serving() as web:
        web.file("/tiny.gguf", GGUF)
        spec = f"{web.url}/tiny.gguf"
        store.pull(spec)
    assert store.resolve(spec).read_bytes() == GGUF  # the server is gone
    with pytest.raises(ModelNotFoundError):
        store.resolve(spec.replace("tiny", "other"))


@pytest.mark.parametrize("name", ["..", "a/../b", "/etc", "a b", "", "a:b:c", "-x", "x" * 201, "é"])
def test_a_name_that_could_leave_the_store_is_refused(store: ModelStore, folder: Path, name: str) -> None:
    if name:
        with pytest.raises(InvalidParameterError, match="is not a model name"):
            store.pull(str(folder), name)
    with pytest.raises((InvalidParameterError, ModelNotFoundError)):
        store.remove(name)


def test_names_with_a_slash_and_a_tag_stay_apart(store: ModelStore, folder: Path) -> None:
    for name in ("a/b:c", "a/b-c", "a"):
        store.pull(str(folder), name)
    assert [model.name for model in store.list()] == ["a", "a/b-c", "a/b:c"]


def test_a_copy_is_a_model_of_its_own(store: ModelStore) -> None:
    pulled(store)
    copy = store.copy("tiny", "other:1")
    store.remove("tiny")
    assert [model.name for model in store.list()] == ["other:1"]
    assert copy.path.read_bytes() == GGUF
    with pytest.raises(DownloadError, match="other:1 exists already"):
        store.copy("other:1", "other:1")
    with pytest.raises(ModelNotFoundError):
        store.copy("tiny", "third")


def test_a_half_pulled_model_is_not_listed_and_the_old_one_stays(store: ModelStore) -> None:
    pulled(store, body=b"old")
    with serving() as web:
        web.file("/tiny.gguf", GGUF)
        web.page("/SHA256SUMS", f"{'0' * 64}  tiny.gguf\n", "text/plain")
        with pytest.raises(DownloadError, match="sha256"):
            store.pull(web.url + "/tiny.gguf", "tiny")
        with pytest.raises(DownloadError, match="sha256"):
            store.pull(web.url + "/tiny.gguf", "new")
    assert [model.name for model in store.list()] == ["tiny"]
    assert store.resolve("tiny").read_bytes() == b"old"


def test_a_folder_without_a_good_manifest_is_no_model(store: ModelStore, tmp_path: Path) -> None:
    for name, manifest in (("empty", None), ("broken", "{"), ("other", json.dumps({"name": "x"}))):
        folder = tmp_path / "home" / "models" / name
        folder.mkdir(parents=True)
        if manifest is not None:
            (folder / "model.json").write_text(manifest)
    assert store.list() == []


def test_two_pulls_of_one_name_do_not_meet(store: ModelStore, tmp_path: Path, folder: Path) -> None:
    store.pull(str(folder), "tiny")
    with (tmp_path / "home" / "locks" / "tiny.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is changing tiny"):
            store.pull(str(folder), "tiny")
        store.pull(str(folder), "else")
    store.pull(str(folder), "tiny")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot be written: .*; set GLM_HOME to a folder"):
        ModelStore(tmp_path / "file" / "home").pull(str(folder))


def test_a_shard_is_registered_only_with_the_whole_set(store: ModelStore, tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(GGUF)
    with pytest.raises(ModelNotFoundError, match=r"m-00002-of-00002\.gguf is missing"):
        store.pull(str(first))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(GGUF)
    assert store.pull(str(first)).bytes == 2 * len(GGUF)
