"""HTTP for the model store: one client per pull, which statuses are worth another try, small documents.

Below it: httpx2 and errors. Above it: the sources (index pages, listings) and `transfer` (big files). No message it
writes holds credentials or a query.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping

import httpx2

from glm_crush.errors import DownloadError

__all__ = ["InterruptedTransferError", "WebClient", "check_status", "shown"]

_DOCUMENT_LIMIT = 64 << 20
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebClient:
    """An HTTP client for one pull; a context manager.

    Attributes:
        retries: how often in a row an attempt may fail without new bytes.
    """

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        retries: int = 5,
        timeout_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`ca_file` replaces the system's certificate authorities; proxies are found as httpx2 finds them."""
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise DownloadError(f"certificate file {ca_file} cannot be read: {error}") from error
        self.retries = retries
        self.sleep = sleep
        self.http = httpx2.Client(
            verify=context,
            timeout=httpx2.Timeout(timeout_seconds, connect=15.0),
            follow_redirects=True,
            max_redirects=10,
        )

    def __enter__(self) -> WebClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def document(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[bytes, str, str] | None:
        """A small document: its bytes, content type and final URL; None when there is none (404, 410).

        Raises:
            DownloadError: any other failure, after retries; or more than 64 MB.
        """
        failures = 0
        while True:
            try:
                with self.http.stream("GET", url, headers=dict(headers or {})) as response:
                    if response.status_code in (404, 410):
                        return None
                    check_status(response, url)
                    data = bytearray()
                    for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > _DOCUMENT_LIMIT:
                            raise DownloadError(
                                f"{shown(url)} is longer than {_DOCUMENT_LIMIT >> 20} MB, not an index page"
                            )
                    return bytes(data), response.headers.get("content-type", ""), str(response.url)
            except (httpx2.TransportError, InterruptedTransferError) as error:
                failures += 1
                self.wait_or_give_up(url, failures, error)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise DownloadError(f"{shown(url)}: {error}") from error

    def wait_or_give_up(self, url: str, failures: int, error: Exception) -> None:
        """Sleep before another attempt. Raises DownloadError when there have been enough."""
        if failures > self.retries:
            raise DownloadError(
                f"{shown(url)} failed {failures} times in a row: {_reason(error)}; check the network and the address, "
                "then pull again: what has come is kept"
            ) from error
        asked = error.retry_after_seconds if isinstance(error, InterruptedTransferError) else 0.0
        self.sleep(max(min(0.5 * 2 ** (failures - 1), 8.0), asked))


class InterruptedTransferError(Exception):
    """The attempt failed in a way that another may not."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def check_status(response: httpx2.Response, url: str) -> None:
    """Pass success; raise InterruptedTransferError for a status worth another try, DownloadError for any other."""
    status = response.status_code
    if url.startswith("https:") and response.url.scheme != "https":
        raise DownloadError(f"{shown(url)} redirects to plain HTTP at {response.url.host}; refused")
    if status in (200, 206):
        return
    if status in _RETRY_STATUS:
        asked = response.headers.get("retry-after", "")
        raise InterruptedTransferError(f"status {status}", min(float(asked), 60.0) if asked.isdigit() else 0.0)
    if status in (404, 410):
        raise DownloadError(f"{shown(url)} does not exist (status {status}); check the name")
    if status in (401, 403):
        raise DownloadError(f"{shown(url)} refuses access (status {status}); a token or accepted licence is needed")
    raise DownloadError(f"{shown(url)} answered with status {status}")


def shown(url: str) -> str:
    """The URL for a message: no credentials, no query."""
    parsed = httpx2.URL(url)
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
