"""`http(s)://...`: a GGUF file, or a folder that a web server lists.

Below it: the web client. Above it: the store. Where a SHA256SUMS file lies beside the files, every file in it is
checked, and a file that it does not name is refused.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urljoin, urlsplit

from glm_crush.errors import DownloadError, InvalidParameterError
from glm_crush.weights.remote_file import RemoteFile
from glm_crush.weights.shards import shard_siblings
from glm_crush.weights.sources.source import PullPlan, is_model_file, pick_one_gguf, redacted, safe_path
from glm_crush.weights.web_client import WebClient

__all__ = ["WebSource"]

_SUM_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})[ \t]+\*?(\./)?(?P<name>.+)")


class WebSource:
    """A file, or a folder."""

    def __init__(self, url: str) -> None:
        """Raises InvalidParameterError when the URL has no host, or credentials in it."""
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None:
            raise InvalidParameterError(f"{redacted(url)} needs a host, and no user in front of it", parameter="model")
        self._url = url
        self._is_file = parts.path.endswith((".gguf", ".safetensors"))
        self._query = f"?{parts.query}" if parts.query else ""
        self._folder = urljoin(url, ".") if self._is_file else url.partition("?")[0].rstrip("/") + "/"
        self._name = unquote(parts.path.rstrip("/").rpartition("/")[2])

    @property
    def spec(self) -> str:
        """The URL without its query."""
        return redacted(self._url)

    @property
    def default_name(self) -> str:
        """The file's or folder's own name."""
        stem = self._name.removesuffix(".gguf").removesuffix(".safetensors")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or str(urlsplit(self._url).hostname)

    def plan(self, web: WebClient) -> PullPlan:
        """List the folder (or the shards of the file), with hashes where the server has them."""
        sums = self._sums(web)
        names = shard_siblings(self._name) if self._is_file else self._listing(web, sums)
        if sums and (missing := [name for name in names if name not in sums]):
            raise DownloadError(f"{redacted(self._folder)}SHA256SUMS does not name {missing[0]}")
        files = [
            RemoteFile(safe_path(name, self.spec), self._folder + quote(name) + self._query, sha256=sums.get(name))
            for name in names
        ]
        return PullPlan(self.spec, files=tuple(files))

    def _sums(self, web: WebClient) -> dict[str, str]:
        found = web.document(self._folder + "SHA256SUMS" + self._query)
        if found is None or "html" in found[1]:  # some servers answer every name with a page
            return {}
        lines = found[0].decode("utf-8", errors="replace").splitlines()
        matches = [_SUM_LINE.fullmatch(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
        if None in matches:
            raise DownloadError(f"{redacted(self._folder)}SHA256SUMS has a line that is not a hash and a name")
        return {match["name"]: match["sha256"] for match in matches if match is not None}

    def _listing(self, web: WebClient, sums: dict[str, str]) -> list[str]:
        names = list(sums)
        if not names:
            found = web.document(self._folder)
            if found is None or "html" not in found[1]:
                raise DownloadError(
                    f"{redacted(self._folder)} is no folder listing and has no SHA256SUMS; give a file's URL"
                )
            page = _Links(found[2])
            page.feed(found[0].decode("utf-8", errors="replace"))
            names = page.names
        names = [name for name in names if is_model_file(name)]
        if any(name.endswith(".safetensors") for name in names):
            return sorted(name for name in names if not name.endswith(".gguf"))
        chosen = pick_one_gguf([name for name in names if name.endswith(".gguf")], redacted(self._folder))
        if not chosen:
            raise DownloadError(f"{redacted(self._folder)} lists neither safetensors nor GGUF files")
        return chosen


class _Links(HTMLParser):
    """Names of the files directly in a listed folder."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._folder = url.partition("?")[0].rpartition("/")[0] + "/"
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links that lead to a file of this folder."""
        href = dict(attrs).get("href")
        if tag != "a" or not href:
            return
        target = urljoin(self._folder, href).partition("?")[0].partition("#")[0]
        name = unquote(target.removeprefix(self._folder))
        if target.startswith(self._folder) and name and "/" not in name and name not in self.names:
            self.names.append(name)
