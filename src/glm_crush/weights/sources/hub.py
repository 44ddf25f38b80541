"""`hf:ORG/NAME[@REVISION][:FILE]`: a repository of a Hugging Face hub or a mirror of one.

Below it: the web client. Above it: the store. The revision is resolved to a commit first, so that a repository that
changes meanwhile is not mixed; large files are checked by their sha256, small ones by their git hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from glm_crush.errors import DownloadError, InvalidParameterError
from glm_crush.weights.remote_file import RemoteFile
from glm_crush.weights.sources.source import PullPlan, is_sidecar, pick_one_gguf, safe_path
from glm_crush.weights.web_client import WebClient, shown

__all__ = ["HubSource"]

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SPEC = re.compile(rf"(?P<repo>{_PART}(/{_PART})?)(@(?P<revision>[\w./-]+))?(:(?P<glob>.+))?", re.ASCII)


@dataclass(frozen=True)
class _HubFile:
    path: str
    size: int | None
    sha256: str | None
    blob: str | None


class HubSource:
    """A repository with safetensors or GGUF files."""

    def __init__(self, text: str, endpoint: str, token: str | None = None) -> None:
        """Parse what follows `hf:`. Raises InvalidParameterError."""
        match = _SPEC.fullmatch(text)
        if match is None:
            raise InvalidParameterError(f"hf:{text} is not hf:ORG/NAME[@REVISION][:FILE]", parameter="model")
        self._text = text
        self._repo: str = match["repo"]
        self._revision: str = match["revision"] or "main"
        self._glob: str | None = match["glob"]
        self._endpoint = endpoint.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    @property
    def spec(self) -> str:
        """The spec as given."""
        return f"hf:{self._text}"

    @property
    def default_name(self) -> str:
        """The repository, with the chosen file behind a colon."""
        chosen = re.sub(r"[^A-Za-z0-9._-]+", "", self._glob or "").removesuffix(".gguf").strip(".-_")
        return self._repo + (f":{chosen}" if chosen else "")

    def plan(self, web: WebClient) -> PullPlan:
        """Resolve the revision and choose the files."""
        revision = quote(self._revision, safe="")
        url = f"{self._endpoint}/api/models/{self._repo}/revision/{revision}?blobs=true"
        answer = web.document(url, self._headers)
        if answer is None:
            raise DownloadError(
                f"{self._repo} at {self._revision} is not on {shown(self._endpoint)}; check name and revision"
            )
        commit, files = _parse(answer[0], url)
        chosen = self._choose(files)
        base = f"{self._endpoint}/{self._repo}/resolve/{commit}"
        return PullPlan(
            f"hf:{self._repo}@{commit}" + (f":{self._glob}" if self._glob else ""),
            files=tuple(
                RemoteFile(
                    path=file.path,
                    url=f"{base}/{quote(file.path)}",
                    size=file.size,
                    sha256=file.sha256,
                    git_blob_sha1=file.blob if file.sha256 is None else None,
                    headers=self._headers,
                )
                for file in chosen
            ),
        )

    def _choose(self, files: Sequence[_HubFile]) -> list[_HubFile]:
        weights = [f.path for f in files if f.path.endswith((".gguf", ".safetensors"))]
        if self._glob:
            weights = [path for path in weights if self._matches(path)]
            if not weights:
                have = ", ".join(f.path for f in files if f.path.endswith((".gguf", ".safetensors"))) or "none"
                raise DownloadError(f"{self._repo} has no weights that match {self._glob!r}; it has {have[:600]}")
        # Mistral repositories hold the same weights twice
        tensors = [
            p for p in weights if p.endswith(".safetensors") and "/" not in p and not p.startswith("consolidated")
        ]
        if tensors:
            wanted = {*tensors, *(f.path for f in files if is_sidecar(f.path) and f.path.count("/") <= 1)}
        else:
            wanted = set(pick_one_gguf([p for p in weights if p.endswith(".gguf")], self._repo))
        if not wanted:
            raise DownloadError(f"{self._repo} has neither safetensors nor GGUF files")
        return sorted((file for file in files if file.path in wanted), key=lambda file: file.path)

    def _matches(self, path: str) -> bool:
        """By path or name as a glob, or by a part of the name such as `Q4_K_M`."""
        glob = (self._glob or "").lower()
        name = PurePosixPath(path).name.lower()
        if any(character in glob for character in "*?[") or "." in glob:
            return fnmatchcase(path.lower(), glob) or fnmatchcase(name, glob)
        return path.endswith(".gguf") and re.search(rf"(^|[.-]){re.escape(glob)}([.-]|$)", name) is not None


def _parse(data: bytes, url: str) -> tuple[str, list[_HubFile]]:
    try:
        answer: dict[str, Any] = json.loads(data)
        commit = str(answer["sha"])
        files = []
        for entry in answer["siblings"]:
            large = entry.get("lfs") or {}
            path = safe_path(str(entry["rfilename"]), shown(url))
            files.append(_HubFile(path, large.get("size", entry.get("size")), large.get("sha256"), entry.get("blobId")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{shown(url)} is not the answer of a model hub: {error!r}") from error
    if re.fullmatch(r"[0-9a-fA-F]{7,64}", commit) is None:
        raise DownloadError(f"{shown(url)} names the commit {commit[:80]!r}, which is no hash")
    return commit, files
