"""Files over HTTP from servers that misbehave. Real sockets on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from glm_crush.errors import DownloadError
from glm_crush.weights.remote_file import RemoteFile, TransferProgress
from glm_crush.weights.transfer import fetch
from glm_crush.weights.web_client import WebClient, check_status
from tests.weights.web_server import Request, Web, serving, sha256

pytestmark = pytest.mark.requirement("M1")
BODY = bytes(range(256)) * 2000
SHA = sha256(BODY)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as started:
        yield started


@pytest.fixture
def naps() -> list[float]:
    """How long the client would have slept."""
    return []


@pytest.fixture
def client(naps: list[float]) -> Iterator[WebClient]:
    with WebClient(retries=3, timeout_seconds=10.0, sleep=naps.append) as started:
        yield started


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def remote(web: Web, path: str = "/f", **known: object) -> RemoteFile:
    return RemoteFile("model.gguf", web.url + path, **known)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_its_hash_is_returned(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY)
    seen: list[TransferProgress] = []
    assert fetch(client, remote(web, sha256=SHA, size=len(BODY)), target, seen.append) == SHA
    assert target.read_bytes() == BODY
    assert (seen[-1].done, seen[-1].total) == (len(BODY), len(BODY))
    assert sorted(p.name for p in target.parent.glob("model*")) == ["model.gguf"]


def test_a_connection_that_drops_is_continued_where_it_stopped(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY, cuts=(1000, 200_000))
    assert fetch(client, remote(web), target) == SHA
    ranges = [headers.get("range") for headers in web.asked("/f")]
    assert ranges == [None, "bytes=1000-", "bytes=201000-"]


def test_a_later_run_continues_what_an_earlier_one_left(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY, cuts=(300_000, 0, 0, 0))
    with pytest.raises(
        DownloadError,
        match=r"failed 4 times in a row: .*; check the network .* what has come is kept",
    ):
        fetch(client, remote(web), target)
    assert not target.exists()
    assert fetch(client, remote(web), target) == SHA
    assert web.asked("/f")[-1]["range"] == "bytes=300000-"
    assert web.asked("/f")[-1]["if-range"] == '"v1"'


def test_a_server_without_ranges_starts_again_from_the_beginning(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY, ranges=False, cuts=(100_000,))
    assert fetch(client, remote(web), target) == SHA


def test_a_file_that_changed_meanwhile_is_not_glued_together(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", b"x" * len(BODY), etag='"old"', cuts=(300_000, 0, 0, 0))
    with pytest.raises(DownloadError):
        fetch(client, remote(web), target)
    web.file("/f", BODY, etag='"new"')
    assert fetch(client, remote(web), target) == SHA
    assert target.read_bytes() == BODY


def test_a_server_that_ignores_if_range_is_caught_by_the_hash(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", b"x" * len(BODY), etag="", cuts=(300_000, 0, 0, 0))
    with pytest.raises(DownloadError):
        fetch(client, remote(web, sha256=SHA), target)
    web.file("/f", BODY, etag="")
    assert fetch(client, remote(web, sha256=SHA), target) == SHA
    assert [h.get("range") for h in web.asked("/f")][-2:] == ["bytes=300000-", None]


def test_a_connection_that_keeps_dropping_is_borne_while_bytes_arrive(
    web: Web, client: WebClient, target: Path
) -> None:
    web.file("/f", BODY, cuts=(1000,) * 20)
    assert fetch(client, remote(web), target) == SHA


def test_a_server_that_sends_from_another_position_is_not_believed(web: Web, client: WebClient, target: Path) -> None:
    web.file("/real", BODY, cuts=(1000,))

    def answer(request: Request) -> None:
        if len(web.asked("/f")) == 2:
            span = f"bytes 500-{len(BODY) - 1}/{len(BODY)}"
            request.reply(206, BODY[500:], content_range=span, etag='"v1"')
        else:
            web.answers["/real"](request)

    web.answers["/f"] = answer
    assert fetch(client, remote(web), target) == SHA
    assert target.read_bytes() == BODY


def test_a_redirect_from_https_to_plain_http_is_refused() -> None:
    response = httpx2.Response(200, request=httpx2.Request("GET", "http://elsewhere/f"))
    with pytest.raises(DownloadError, match="redirects to plain HTTP at elsewhere; refused"):
        check_status(response, "https://hub/f")


def test_without_etag_and_hash_nothing_is_continued(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY, etag="", cuts=(1000,))
    assert fetch(client, remote(web), target) == SHA
    assert [headers.get("range") for headers in web.asked("/f")] == [None, None]


def test_a_wrong_hash_leaves_nothing_behind(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", BODY)
    with pytest.raises(DownloadError, match=f"sha256 is {SHA}; expected {'0' * 64}; nothing of it was kept"):
        fetch(client, remote(web, sha256="0" * 64), target)
    assert list(target.parent.glob("model*")) == []


def test_a_git_blob_hash_is_checked(web: Web, client: WebClient, target: Path) -> None:
    web.file("/f", b"hello\n")
    fetch(client, remote(web, git_blob_sha1="ce013625030ba8dba906f756967f9e9ca394464a"), target)
    with pytest.raises(DownloadError, match="git blob hash is ce013625030ba8dba906f756967f9e9ca394464a"):
        fetch(client, remote(web, git_blob_sha1="0" * 40), target)


def test_a_size_that_differs_from_the_index_is_refused_before_the_first_byte(
    web: Web, client: WebClient, target: Path
) -> None:
    web.file("/f", BODY)
    with pytest.raises(DownloadError, match="announces 512000 bytes; the index says 7"):
        fetch(client, remote(web, size=7), target)


def test_a_file_larger_than_the_disk_is_refused_before_the_first_byte(
    web: Web, client: WebClient, target: Path
) -> None:
    web.answers["/f"] = lambda request: request.reply(200, b"x", cut=1, content_length=str(10**18))
    with pytest.raises(DownloadError, match=r"needs 1000000000000 MB more and .* are free"):
        fetch(client, remote(web), target)


def test_a_body_longer_than_announced_is_cut_off(web: Web, client: WebClient, target: Path) -> None:
    def answer(request: Request) -> None:
        request.reply(200, BODY * 3, content_length="", transfer_encoding="", connection="close")

    web.answers["/f"] = answer
    with pytest.raises(DownloadError, match="sends more than the 512000 bytes it announced"):
        fetch(client, remote(web, size=len(BODY)), target)


def test_redirects_are_followed_and_keep_the_range(web: Web, client: WebClient, target: Path) -> None:
    web.file("/real", BODY, cuts=(1000,))
    web.redirect("/f", "/real", status=307)
    assert fetch(client, remote(web), target) == SHA
    assert web.asked("/real")[1]["range"] == "bytes=1000-"


def test_a_token_is_not_sent_to_another_host(web: Web, client: WebClient, target: Path) -> None:
    with serving() as other:
        other.file("/cdn", BODY)
        web.redirect("/f", other.url.replace("127.0.0.1", "localhost") + "/cdn")
        fetch(client, remote(web, headers={"authorization": "Bearer secret"}), target)
        assert "authorization" in web.asked("/f")[0]
        assert "authorization" not in other.asked("/cdn")[0]


def test_a_redirect_that_never_ends_is_an_error(web: Web, client: WebClient, target: Path) -> None:
    web.redirect("/f", "/f")
    with pytest.raises(DownloadError, match=r"[Rr]edirect"):
        fetch(client, remote(web), target)


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (401, "a token or"), (403, "refuses"), (418, "418")],
)
def test_a_final_status_is_not_tried_again(
    web: Web, client: WebClient, target: Path, naps: list[float], status: int, message: str
) -> None:
    web.answers["/f"] = lambda request: request.reply(status, b"no")
    with pytest.raises(DownloadError, match=message):
        fetch(client, remote(web), target)
    assert naps == []


def test_a_busy_server_is_tried_again_when_it_says(
    web: Web, client: WebClient, target: Path, naps: list[float]
) -> None:
    web.file("/real", BODY)
    waiting = [lambda request: request.reply(503, b"", retry_after="7"), lambda request: request.reply(500, b"")]
    web.answers["/f"] = lambda request: (waiting.pop(0) if waiting else web.answers["/real"])(request)
    assert fetch(client, remote(web), target) == SHA
    assert naps == [7.0, 1.0]


def test_a_compressed_answer_is_refused(web: Web, client: WebClient, target: Path) -> None:
    web.answers["/f"] = lambda request: request.reply(200, BODY, content_encoding="gzip")
    with pytest.raises(DownloadError, match="compresses the file"):
        fetch(client, remote(web), target)


def test_a_message_never_shows_credentials_or_the_query(web: Web, client: WebClient, target: Path) -> None:
    url = web.url.replace("http://", "http://user:secret@") + "/f?token=secret"
    with pytest.raises(DownloadError) as error:
        fetch(client, RemoteFile("f", url), target)
    assert "secret" not in str(error.value)


def test_a_closed_port_is_an_error_that_names_the_address(client: WebClient, target: Path) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match=f"{url}/f failed 4 times in a row"):
        fetch(client, RemoteFile("f", url + "/f"), target)
