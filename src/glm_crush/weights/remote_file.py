"""What a transfer is told and what it tells: plain values, no network.

Above it: the sources, the transfers, the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Progress", "RemoteFile", "SourceSettings", "TransferProgress"]


@dataclass(frozen=True)
class SourceSettings:
    """How to reach the sources.

    Attributes:
        hub_endpoint: base URL of the hub or mirror behind `hf:`.
        hub_token: sent to the hub, and to nobody else.
        package_index: simple index behind `pypi:`; None = what pip on this machine uses.
        environ: environment variables in which pip's own settings are looked up (PIP_INDEX_URL, PIP_CERT,
            XDG_CONFIG_DIRS ...).
    """

    hub_endpoint: str = "https://huggingface.co"
    hub_token: str | None = field(default=None, repr=False)
    package_index: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        path: where it goes, relative to the model's folder. url: where it is.
        size: bytes, where the source says so. sha256, git_blob_sha1: expected hashes, where the source says so.
        headers: sent with the request (authorisation).
    """

    path: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_blob_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TransferProgress:
    """Where a file stands. `total` is None while the server has not said."""

    file: str
    done: int
    total: int | None


Progress = Callable[[TransferProgress], None]
