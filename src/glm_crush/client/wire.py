"""From a call to an HTTP request, and from what went wrong with it to the next attempt or to one of our errors.

Above: the two transports, which only send and wait. Below: httpx2's requests, which both of its clients share.
"""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

from glm_crush.client.attempts import Attempts, RetryPolicy
from glm_crush.client.call import Answer, Call, StreamCall
from glm_crush.client.refusals import refusal
from glm_crush.errors import ConfigError, DeadlineError, GlmError, UnreachableError

__all__ = ["ConnectionOptions", "Exchange", "broken", "is_loopback"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Where a client's server is, and how it is asked.

    Attributes:
        url: without a path such as /v1.
        timeout_seconds: a reply of which nothing comes for so long is given up.
        verify: the server's certificate; False = do not, or a context of one's own.
        headers: sent with every request.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600.0
    connect_seconds: float = 5.0
    max_connections: int = 100
    verify: ssl.SSLContext | bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        """Raises ConfigError for an address that cannot be one."""
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1"))
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"url is {self.url!r:.200}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"url is {self.url!r:.200}; give http://HOST:PORT or https://HOST:PORT")

    def for_httpx(self) -> dict[str, Any]:
        """The arguments of httpx2's clients."""
        return {
            "base_url": self.url,
            # A context costs more than the rest of a client, and nothing is encrypted on http.
            "verify": self.verify if self.url.startswith("https") else False,
            "limits": httpx2.Limits(max_connections=self.max_connections),
            "trust_env": not is_loopback(self.url),
        }

    def tls_context(self) -> ssl.SSLContext:
        """How the server's certificate is checked, for what is no HTTP."""
        if isinstance(self.verify, ssl.SSLContext):
            return self.verify
        return httpx2.create_ssl_context(verify=self.verify)

    def request_headers(self) -> dict[str, str]:
        """The key, and what the user wants to have sent."""
        key = {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}
        return {"x-request-id": f"req_{uuid.uuid4().hex}", **key, **self.headers}


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine, where no proxy leads to."""
    return httpx2.URL(url).host in _LOOPBACK


class Exchange:
    """One call on its way: makes its requests, and judges what came of each.

    All attempts of a call carry one request id, so that the server's log tells them for one.
    """

    def __init__(self, options: ConnectionOptions, call: Call[Any] | StreamCall[Any, Any]) -> None:
        self._options = options
        self._call = call
        self._headers = options.request_headers()
        self._attempts = Attempts(options.retries, repeatable=call.repeatable)

    def request(self, http: httpx2.Client | httpx2.AsyncClient) -> httpx2.Request:
        """The request of the next attempt."""
        call, headers = self._call, dict(self._headers)
        form: dict[str, Any] = {}
        if call.body is not None:
            form["content"] = msgspec.json.encode(call.body)
            headers["content-type"] = "application/json"
        elif isinstance(call, Call) and call.upload is not None:
            content = call.upload.content
            if not isinstance(content, bytes):
                content.seek(0)
            form = {"data": dict(call.upload.fields), "files": {"file": (call.upload.filename, content)}}
        timeout = httpx2.Timeout(self._options.timeout_seconds, connect=self._options.connect_seconds)
        query = dict(call.query) or None
        return http.build_request(call.method, call.path, params=query, headers=headers, timeout=timeout, **form)

    def accepts(self, response: httpx2.Response) -> bool:
        """Whether it is an answer, and no refusal."""
        return response.is_success or (isinstance(self._call, Call) and response.status_code in self._call.accepts)

    def after_refusal(self, response: httpx2.Response) -> float:
        """Seconds to wait before the next attempt. Raises the refusal as one of our errors when there is none."""
        headers = dict(response.headers)
        wait = self._attempts.after_refusal(response.status_code, headers)
        if wait is None:
            raise self._named(refusal(response.status_code, headers, response.content))
        return wait

    def after_failure(self, failure: httpx2.HTTPError) -> float:
        """The same when there was no answer."""
        error = broken(failure, self._options)
        wait = None
        if isinstance(error, UnreachableError):
            unsent = isinstance(failure, (httpx2.ConnectError, httpx2.ConnectTimeout))
            wait = self._attempts.after_failure(sent=not unsent)
        if wait is None:
            raise self._named(error) from failure
        return wait

    def answer(self, response: httpx2.Response) -> Answer:
        """A success that has been read."""
        return Answer(response.status_code, dict(response.headers), response.content)

    def _named(self, error: GlmError) -> GlmError:
        error.request_id = error.request_id or self._headers["x-request-id"]
        return error


def broken(failure: httpx2.HTTPError, options: ConnectionOptions) -> GlmError:
    """A failed connection as one of our errors."""
    url, reason = options.url, str(failure) or type(failure).__name__
    if isinstance(failure, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return UnreachableError(
            f"no server answers at {url} ({reason}); start one with glm serve, or name another with url, --url or "
            "GLM_CLIENT_URL"
        )
    if isinstance(failure, httpx2.PoolTimeout):
        return DeadlineError(
            f"all {options.max_connections} connections to {url} were busy for {options.timeout_seconds:g} s; raise "
            "max_connections, or close streams that are not read"
        )
    if isinstance(failure, httpx2.TimeoutException):
        return DeadlineError(
            f"nothing came from {url} for {options.timeout_seconds:g} s; raise timeout_seconds, or ask for a stream"
        )
    return UnreachableError(f"the connection to {url} broke: {reason}")
