"""From what a client is given, and the configuration for the rest, to how its server is reached.

Above: the two clients. Below: the configuration.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from glm_crush.client.attempts import RetryPolicy
from glm_crush.client.wire import ConnectionOptions
from glm_crush.config import Settings, load_settings

__all__ = ["client_settings", "connection_options"]


def client_settings(
    url: str | None,
    api_key: str | None,
    *,
    timeout_seconds: float | None,
    connect_seconds: float | None,
    max_retries: int | None,
    max_connections: int | None,
) -> Settings:
    """The configuration, with what a client was given in its place.

    Raises:
        ConfigError: a setting cannot be.
    """
    return load_settings(
        flags={
            "client.url": url,
            "api.key": api_key,
            "client.timeout_seconds": timeout_seconds,
            "client.connect_seconds": connect_seconds,
            "client.max_retries": max_retries,
            "client.max_connections": max_connections,
        }
    )


def connection_options(
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
