"""How either client begins: from what it is given, and the configuration for the rest, to its server.

Above: the two clients. Below: the configuration.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

from glm_crush.client.attempts import RetryPolicy
from glm_crush.client.wire import ConnectionOptions
from glm_crush.config import Settings, load_settings

__all__ = ["ConnectedClient"]


class _Transport(Protocol):
    options: ConnectionOptions

    def with_options(self, **changes: Any) -> Self: ...


TransportT = TypeVar("TransportT", bound=_Transport)


class ConnectedClient(ABC, Generic[TransportT]):
    """What `Client` and `AsyncClient` have in common: everything but waiting."""

    _transport: TransportT

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float | None = None,
        connect_seconds: float | None = None,
        max_retries: int | None = None,
        max_connections: int | None = None,
        verify: ssl.SSLContext | bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is sent yet. What is None is taken from the configuration (file, environment), else its default.

        Args:
            url: of the server, with or without /v1; default: this machine, port 4600.
            api_key: sent as a bearer token.
            timeout_seconds: a reply of which nothing comes for so long is given up.
            connect_seconds: a connection that takes longer is given up.
            max_retries: how often a request that may be repeated is sent again.
            max_connections: at a time.
            verify: whether the server's certificate is checked; or a context that says how.
            headers: sent with every request.

        Raises:
            ConfigError: the address or a setting cannot be.
        """
        settings = load_settings(
            flags={
                "client.url": url,
                "api.key": api_key,
                "client.timeout_seconds": timeout_seconds,
                "client.connect_seconds": connect_seconds,
                "client.max_retries": max_retries,
                "client.max_connections": max_connections,
            }
        )
        self._use(self._connect(_connection_options(settings, verify=verify, headers=headers)))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A client as a configuration that has been loaded says."""
        client = cls.__new__(cls)
        client._use(cls._connect(_connection_options(settings)))
        return client

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._transport.options.url

    def with_options(
        self,
        *,
        timeout_seconds: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """The same connections, asked in another way; what is None stays. `headers` are sent beside the others.

        client.with_options(timeout_seconds=5, max_retries=0).chat("Hello")
        """
        changes: dict[str, Any] = {} if timeout_seconds is None else {"timeout_seconds": timeout_seconds}
        if max_retries is not None:
            changes["retries"] = RetryPolicy(max_retries=max_retries)
        if headers is not None:
            changes["headers"] = {**self._transport.options.headers, **headers}
        client = type(self).__new__(type(self))
        client._use(self._transport.with_options(**changes))
        return client

    @staticmethod
    @abstractmethod
    def _connect(options: ConnectionOptions) -> TransportT:
        """Connections of the client's kind."""

    @abstractmethod
    def _use(self, transport: TransportT) -> None:
        """Give it to the client and to its groups."""


def _connection_options(
    settings: Settings, *, verify: ssl.SSLContext | bool = True, headers: Mapping[str, str] | None = None
) -> ConnectionOptions:
    """How the server is reached.

    Raises:
        ConfigError: the address cannot be one.
    """
    return ConnectionOptions(
        url=settings.server_url,
        api_key=settings.api.key,
        timeout_seconds=settings.client.timeout_seconds,
        connect_seconds=settings.client.connect_seconds,
        max_connections=settings.client.max_connections,
        verify=verify,
        headers=headers or {},
        retries=RetryPolicy(max_retries=settings.client.max_retries),
    )
